/* The log in flash: power cuts at every word, overflow, faults, damage (rig.c has the flash). */
#include "rig.h"

#include <stdio.h>
#include <string.h>

/* ---- A device's day, with power cuts ---- */

typedef struct {
    int next_id;
    uint8_t promised[RIG_IDS]; /* iomt_record said IOMT_OK */
} application;

static application app;

/* Readings up to number `until`, in bursts between times without a connection. */
static void live(int until)
{
    rig_open();
    while (app.next_id < until) {
        int id = app.next_id++;

        if (rig_record(id) == IOMT_OK)
            app.promised[id] = 1;
        if (id % 7 == 6)
            rig_break_link();
        else if (id % 7 >= 3)
            rig_run(3);
    }
}

/* Live until `until`, through any cut; true if there was one. */
static bool live_through(int until, long cut_at, cut_effect effect)
{
    bench.operations = 0;
    bench.cut_at = cut_at;
    bench.effect = effect;
    if (setjmp(bench.power_lost) == 0) {
        live(until);
        return false;
    }
    rig_power_cycle();
    return true;
}

static void check_nothing_lost(long detail)
{
    rig_drain();
    for (int id = 0; id < app.next_id; id++) {
        CHECK(bench.delivered[id] <= 1, "no reading is delivered twice", detail);
        if (app.promised[id])
            CHECK(bench.delivered[id] == 1, "no promised reading is lost", detail);
    }
    CHECK(bench.dup_flags >= bench.duplicates, "a repetition is marked DUP", detail);
    if (bench.many_cuts) /* a second cut can take a reading that was never promised */
        return;
    CHECK(iomt_dropped(&client) == 0, "nothing is given up", detail);
    CHECK(bench.gaps == 0, "the sequence has no gap", detail);
}

static void start_day(const geometry *g)
{
    rig_reset(g);
    memset(&app, 0, sizeof app);
    bench.puback_lost_every = 5;
    bench.any_sequence = true; /* as a gateway that had this device's sequence 999 */
    bench.last_sequence = 999;
}

/* Power fails in every single operation, in each of the ways that it can. */
static long cut_everywhere(const geometry *g)
{
    long runs = 0;

    for (int effect = 0; effect < CUT_EFFECTS; effect++)
        for (long at = 0;; at++, runs++) {
            start_day(g);
            if (!live_through(g->readings, at, (cut_effect)effect))
                break;
            if (effect == CUT_MARGINAL) { /* a second loss, later, shows the marginal word */
                live_through(app.next_id + (int)(at % 4), -1, CUT_EFFECTS);
                rig_power_cycle();
            }
            live_through(g->readings + 3, -1, CUT_EFFECTS);
            check_nothing_lost(at * 10 + effect);
        }
    return runs;
}

/* A cut in every operation, and another while the device recovers from it; then the words
 * that only seemed to be written show what they are. */
static void cut_twice(const geometry *g, int times)
{
    for (long at = 0;; at++)
        for (int time = 0; time < times; time++) {
            uint32_t dice = (uint32_t)(at * times + time) * 2654435761u;

            start_day(g);
            bench.many_cuts = true;
            if (!live_through(g->readings / 2, at, (cut_effect)(time % CUT_EFFECTS)))
                return;
            bench.dice = dice;
            live_through(app.next_id + 4, (long)rig_random(70), CUT_MARGINAL - time % 2);
            live_through(app.next_id, -1, CUT_EFFECTS);
            rig_power_cycle();
            live_through(g->readings, -1, CUT_EFFECTS);
            check_nothing_lost(at);
        }
}

/* Start, and have the outstanding envelope sent again, with the power cut at this operation
 * of it; false if it came too late. */
static bool cut_while_sending(long at, cut_effect effect)
{
    rig_break_link();
    bench.operations = 0;
    bench.cut_at = at;
    bench.effect = effect;
    if (setjmp(bench.power_lost) == 0) {
        rig_open();
        rig_run(3);
        bench.cut_at = -1;
        return false;
    }
    rig_power_cycle();
    return true;
}

/* An envelope is delivered and its PUBACK lost; its record is copied at the next start, which
 * is cut so that the copy only seems good; it is copied again, into a new block, and cut. */
static void cut_a_copy_of_a_copy(const geometry *g, int step)
{
    for (int fill = 1; fill < 14; fill++)
        for (long first = 0; first < 30; first++)
            for (long second = 0; second < 50; second += step) {
                start_day(g);
                bench.many_cuts = true;
                bench.puback_lost_every = 1;
                rig_open();
                for (; app.next_id < fill; app.next_id++)
                    rig_record(app.next_id);
                rig_run(3);
                if (!cut_while_sending(first, CUT_MARGINAL))
                    break;
                if (!cut_while_sending(second, CUT_GARBLED))
                    break;
                rig_power_cycle();
                bench.puback_lost_every = 0;
                live_through(fill + 2, -1, CUT_EFFECTS);
                check_nothing_lost(fill * 10000 + first * 100 + second);
            }
}

/* Several cuts in one day, most of them soon after a start: recovery is cut, too. */
static void cut_again_and_again(const geometry *g, int days)
{
    for (int day = 0; day < days; day++) {
        uint32_t dice = (uint32_t)day * 2654435761u + 1;

        start_day(g);
        bench.many_cuts = true;
        bench.dice = dice;
        for (int cut = 0; cut < 12 && app.next_id < 3 * g->readings; cut++) {
            long at = (long)rig_random(rig_random(3) == 0 ? 300 : 40);

            live_through(app.next_id + 25, at, (cut_effect)rig_random(CUT_EFFECTS));
            if (bench.link) {
                bench.effect = CUT_EFFECTS;
                rig_power_cycle();
            }
        }
        live_through(app.next_id + 2, -1, CUT_EFFECTS);
        rig_run(400);
        for (int id = 0; id < app.next_id; id++)
            CHECK(bench.delivered[id] <= 1, "never twice, through many cuts", day);
        if (iomt_dropped(&client) == 0 && bench.gaps == 0)
            for (int id = 0; id < app.next_id; id++)
                CHECK(bench.delivered[id] == 1 || !app.promised[id],
                      "never lost, through many cuts", day);
    }
}

/* ---- A log that overflows ---- */

static void overflow(const geometry *g)
{
    int lost = 0;

    rig_reset(g);
    rig_open();
    memset(&app, 0, sizeof app);
    for (int id = 0; id < 300; id++)
        CHECK(rig_record(id) == IOMT_OK, "a full log takes readings", id);
    CHECK(iomt_dropped(&client) + iomt_waiting(&client) == 300, "all are accounted for", 0);
    CHECK(iomt_dropped(&client) > 0, "the oldest are given up", 0);
    CHECK(client.log.cursor.number + g->block_count > client.log.end.number,
          "blocks that are gone are not searched", client.log.cursor.number);
    bench.any_sequence = true;
    bench.last_sequence = 999;
    lost = (int)iomt_dropped(&client);
    bench.now_ms += 60000;
    rig_drain();
    lost += (int)(iomt_dropped(&client) - (uint32_t)lost);
    for (int id = 0; id < 300; id++)
        CHECK(bench.delivered[id] == (id >= lost), "the newest are delivered", id);
    CHECK(bench.gaps >= 1, "a gap in the sequence tells of it", bench.gaps);
    CHECK(bench.backlogs > 0, "marked as backlog", 0);
}

/* The oldest block is overwritten while its envelope is on the way. */
static void overflow_in_flight(const geometry *g)
{
    rig_reset(g);
    rig_open();
    bench.puback_lost_every = 1;
    for (int id = 0; id < 300; id++) {
        CHECK(rig_record(id) == IOMT_OK, "takes readings", id);
        if (id % 40 == 20)
            rig_run(3);
    }
    bench.puback_lost_every = 0;
    rig_drain();
    for (int id = 0; id < 300; id++)
        CHECK(bench.delivered[id] <= 1, "what is given up in flight is not sent again", id);
    CHECK(bench.delivered[299] == 1, "the newest is delivered", 0);
}

/* ---- Faults of the flash ---- */

static void flash_faults(const geometry *g)
{
    enum { FAILS, ROTS, LIES, FAULTS };

    for (int fault = 0; fault < FAULTS; fault++)
        for (int at = 0; at < 30; at++) {
            int refused = -1;

            rig_reset(g);
            rig_open();
            for (int id = 0; id < 30; id++) {
                bench.write_fails = id == at && fault == FAILS;
                bench.rots = id == at && fault == ROTS;
                bench.write_lies = id == at && fault == LIES;
                if (rig_record(id) != IOMT_OK) {
                    CHECK(id == at, "one failure, one refusal", id);
                    refused = id;
                    CHECK(rig_record(id + 100) == IOMT_OK, "the next one goes", id);
                    break;
                }
                if (id % 3 == 2)
                    rig_run(4);
            }
            CHECK(refused == at, "a failed write is noticed", at);
            rig_drain();
            for (int id = 0; id < at; id++)
                CHECK(bench.delivered[id] == 1, "the others are delivered", id);
            CHECK(bench.delivered[at + 100] == 1, "and the one after it", at);
            CHECK(bench.delivered[at] <= (fault == LIES), "and it, if it is there", at);
        }
}

/* A bit turns in a reading that waits: only it is lost, and a gap says so. */
static void rot_at_rest(const geometry *g)
{
    rig_reset(g);
    rig_open();
    for (int id = 0; id < 5; id++)
        rig_record(id);
    bench.flash[g->block_size + 48 + 3 * 24] ^= 1;
    rig_open();
    rig_drain();
    for (int id = 0, found = 0; id < 5; id++) {
        found += bench.delivered[id];
        CHECK(id != 4 || found == 4, "one rotten reading is one lost reading", found);
    }
    CHECK(iomt_dropped(&client) == 1, "it is counted", iomt_dropped(&client));
}

/* Flash in any condition: what is found there is delivered at most once, and nothing breaks. */
static void any_flash(const geometry *g, int rounds)
{
    for (int round = 0; round < rounds; round++) {
        uint32_t dice = bench.dice, size = g->block_size * g->block_count;

        start_day(g);
        bench.dice = dice;
        live_through((int)rig_random(40), -1, CUT_EFFECTS);
        rig_break_link();
        for (uint32_t spoilt = 1 + rig_random(round % 2 ? 4 : size); spoilt > 0; spoilt--)
            bench.flash[rig_random(size)] = (uint8_t)rig_random(256);
        bench.last_id = -1;
        bench.any_sequence = false; /* a sequence that rots away may come again */
        bench.many_cuts = true;
        memset(bench.fresh, 1, sizeof bench.fresh);
        memset(bench.delivered, 0, sizeof bench.delivered);
        app.next_id += 100;
        live_through(app.next_id + 20, -1, CUT_EFFECTS);
        rig_drain();
        for (int id = 0; id < app.next_id; id++)
            CHECK(bench.delivered[id] <= 1, "a spoilt flash doubles nothing", id);
        for (int id = app.next_id - 20; id < app.next_id; id++)
            CHECK(bench.delivered[id] == 1, "and goes on taking readings", id);
    }
}

void test_power(const geometry *g, int soak)
{
    long runs = cut_everywhere(g);

    printf("blocks %u x %u, words of %u: %ld power cuts\n", g->block_count, g->block_size,
           g->word_size, runs);
    cut_twice(g, 4 * soak);
    cut_a_copy_of_a_copy(g, soak > 1 ? 1 : 5);
    cut_again_and_again(g, 300 * soak);
    overflow(g);
    overflow_in_flight(g);
    any_flash(g, 300 * soak);
    flash_faults(g);
    if (g->word_size == 4)
        rot_at_rest(g);
}
