/* The reference client on a bench (rig.c): power cuts at every word of its flash, lost
 * connections and answers, garbage from the server.
 *
 * The last line says how many checks passed and failed; the exit code is 0 if none failed. */
#include "rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static iomt_config config;
static iomt_client client;

typedef struct {
    uint32_t block_size, block_count, word_size;
    uint8_t erased;
    int readings; /* of one run */
} geometry;

/* Small blocks, so that the ring goes round several times. */
static const geometry GEOMETRIES[] = {
    {512, 3, 4, 0xff, 40}, {512, 4, 8, 0x00, 40}, {1024, 2, 32, 0xff, 40}, {512, 6, 1, 0xff, 14},
};

static void reset(const geometry *g)
{
    rig_reset(&config, g->block_size, g->block_count, g->word_size, g->erased);
}

static void open_client(void)
{
    CHECK(iomt_open(&client, &config) == IOMT_OK, "opens", 0);
}

static void drain(void)
{
    rig_run(&client, 400);
    CHECK(iomt_waiting(&client) == 0, "everything waiting is delivered", iomt_waiting(&client));
}

/* ---- A device's day, with power cuts ---- */

typedef struct {
    int next_id;
    uint8_t promised[RIG_IDS]; /* iomt_record said IOMT_OK */
} application;

static application app;

/* Readings up to number `until`, in bursts between times without a connection. */
static void live(int until)
{
    open_client();
    while (app.next_id < until) {
        int id = app.next_id++;

        if (rig_record(&client, id) == IOMT_OK)
            app.promised[id] = 1;
        if (id % 7 == 6)
            rig_break_link();
        else if (id % 7 >= 3)
            rig_run(&client, 3);
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
    drain();
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
    reset(g);
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
        open_client();
        rig_run(&client, 3);
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
                open_client();
                for (; app.next_id < fill; app.next_id++)
                    rig_record(&client, app.next_id);
                rig_run(&client, 3);
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
        rig_run(&client, 400);
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

    reset(g);
    open_client();
    memset(&app, 0, sizeof app);
    for (int id = 0; id < 300; id++)
        CHECK(rig_record(&client, id) == IOMT_OK, "a full log takes readings", id);
    CHECK(iomt_dropped(&client) + iomt_waiting(&client) == 300, "all are accounted for", 0);
    CHECK(iomt_dropped(&client) > 0, "the oldest are given up", 0);
    CHECK(client.log.cursor.number + g->block_count > client.log.end.number,
          "blocks that are gone are not searched", client.log.cursor.number);
    bench.any_sequence = true;
    bench.last_sequence = 999;
    lost = (int)iomt_dropped(&client);
    bench.now_ms += 60000;
    drain();
    lost += (int)(iomt_dropped(&client) - (uint32_t)lost);
    for (int id = 0; id < 300; id++)
        CHECK(bench.delivered[id] == (id >= lost), "the newest are delivered", id);
    CHECK(bench.gaps >= 1, "a gap in the sequence tells of it", bench.gaps);
    CHECK(bench.backlogs > 0, "marked as backlog", 0);
}

/* The oldest block is overwritten while its envelope is on the way. */
static void overflow_in_flight(const geometry *g)
{
    reset(g);
    open_client();
    bench.puback_lost_every = 1;
    for (int id = 0; id < 300; id++) {
        CHECK(rig_record(&client, id) == IOMT_OK, "takes readings", id);
        if (id % 40 == 20)
            rig_run(&client, 3);
    }
    bench.puback_lost_every = 0;
    drain();
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

            reset(g);
            open_client();
            for (int id = 0; id < 30; id++) {
                bench.write_fails = id == at && fault == FAILS;
                bench.rots = id == at && fault == ROTS;
                bench.write_lies = id == at && fault == LIES;
                if (rig_record(&client, id) != IOMT_OK) {
                    CHECK(id == at, "one failure, one refusal", id);
                    refused = id;
                    CHECK(rig_record(&client, id + 100) == IOMT_OK, "the next one goes", id);
                    break;
                }
                if (id % 3 == 2)
                    rig_run(&client, 4);
            }
            CHECK(refused == at, "a failed write is noticed", at);
            drain();
            for (int id = 0; id < at; id++)
                CHECK(bench.delivered[id] == 1, "the others are delivered", id);
            CHECK(bench.delivered[at + 100] == 1, "and the one after it", at);
            CHECK(bench.delivered[at] <= (fault == LIES), "and it, if it is there", at);
        }
}

/* A bit turns in a reading that waits: only it is lost, and a gap says so. */
static void rot_at_rest(const geometry *g)
{
    reset(g);
    open_client();
    for (int id = 0; id < 5; id++)
        rig_record(&client, id);
    bench.flash[g->block_size + 48 + 3 * 24] ^= 1;
    open_client();
    drain();
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
        drain();
        for (int id = 0; id < app.next_id; id++)
            CHECK(bench.delivered[id] <= 1, "a spoilt flash doubles nothing", id);
        for (int id = app.next_id - 20; id < app.next_id; id++)
            CHECK(bench.delivered[id] == 1, "and goes on taking readings", id);
    }
}

/* ---- The connection ---- */

static void one_by_one_and_in_pieces(const geometry *g)
{
    reset(g);
    open_client();
    bench.dribbles = true;
    for (int id = 0; id < 100; id++) {
        rig_record(&client, id);
        rig_run(&client, 60);
    }
    for (int id = 0; id < 100; id++)
        CHECK(bench.delivered[id] == 1, "delivered through a slow line", id);
    CHECK(bench.connects == 1 && bench.dup_flags == 0, "one connection, no DUP", bench.connects);
    CHECK(!bench.last_backlog, "a fresh reading is no backlog", 0);
}

static void lost_answers(const geometry *g)
{
    reset(g);
    open_client();
    bench.puback_lost_every = 2;
    for (int id = 0; id < 60; id++) {
        rig_record(&client, id);
        rig_run(&client, 5);
    }
    drain();
    for (int id = 0; id < 60; id++)
        CHECK(bench.delivered[id] == 1, "lost PUBACKs lose and double nothing", id);
    CHECK(bench.duplicates > 5, "it was sent again", bench.duplicates);
    CHECK(bench.dup_flags == bench.duplicates, "every repetition is marked DUP", bench.dup_flags);
}

static void silence(const geometry *g)
{
    reset(g);
    open_client();
    bench.link = true;
    bench.mute = true;
    iomt_connected(&client);
    CHECK(iomt_poll(&client) == IOMT_OK, "waits for CONNACK", 0);
    bench.tick += 5001;
    CHECK(iomt_poll(&client) == IOMT_E_CONNECTION, "but not for ever", 0);
    CHECK(iomt_poll(&client) == IOMT_OK, "then there is no connection", 0);
    rig_break_link();
    bench.mute = false;
    rig_run(&client, 3);
    bench.tick += 15000;
    rig_run(&client, 3);
    CHECK(bench.pings == 1, "PINGREQ at half the keep-alive", bench.pings);
    bench.mute = true;
    rig_record(&client, 0);
    for (int i = 0; i < 4; i++) {
        CHECK(iomt_poll(&client) == IOMT_OK, "waits for PUBACK", i);
        bench.tick += 1200;
    }
    bench.tick += 1200;
    CHECK(iomt_poll(&client) == IOMT_E_CONNECTION, "but not for ever", 1);
    CHECK(iomt_waiting(&client) == 1, "and keeps the reading", 0);
    CHECK(iomt_backoff_ms(&client, 1999) == 1999 % 501, "backs off", 0);
    for (uint32_t limit_ms = 1000; limit_ms < 64000; limit_ms *= 2)
        CHECK(iomt_backoff_ms(&client, limit_ms) == limit_ms, "longer each time", limit_ms);
    CHECK(iomt_backoff_ms(&client, 64001) == 0, "up to a minute", 0);
    bench.mute = false;
    rig_break_link();
    drain();
    CHECK(iomt_backoff_ms(&client, 501) == 0, "until a PUBACK came", 0);
}

/* An answer to a message that is only half sent is no answer. */
static void early_answer(const geometry *g)
{
    reset(g);
    open_client();
    rig_record(&client, 0);
    rig_run(&client, 1);
    bench.room = 20;
    rig_run(&client, 1);
    CHECK(client.in_flight != 0 && client.tx_left > 0, "half of it is out", client.tx_left);
    rig_push((uint8_t[]){0x40, 2, (uint8_t)(client.in_flight >> 8), (uint8_t)client.in_flight},
             4);
    CHECK(iomt_poll(&client) == IOMT_E_CONNECTION, "too early an answer", 0);
    CHECK(iomt_waiting(&client) == 1, "settles nothing", 0);
}

static void refusal(const geometry *g)
{
    reset(g);
    open_client();
    bench.link = true;
    bench.connack_code = 5;
    iomt_connected(&client);
    iomt_poll(&client);
    CHECK(iomt_poll(&client) == IOMT_E_REFUSED, "a refused CONNECT is told", 0);
}

/* What a server could send, true or not; what is in flight is settled by its PUBACK alone. */
static void garbage(const geometry *g, int rounds)
{
    static const uint8_t starts[] = {0x20, 0x40, 0xd0, 0x00, 0x30, 0x90, 0xff, 0x41};
    long survived = 0;

    for (int round = 0; round < rounds; round++) {
        uint8_t bytes[64], wrong;
        uint32_t size = rig_random(sizeof bytes), waiting;

        if (round % 100 == 0) {
            uint32_t dice = bench.dice;

            reset(g);
            bench.dice = dice;
            open_client();
            for (int id = 0; id < 3; id++)
                rig_record(&client, id);
        }
        bench.mute = rig_random(3) != 0;
        rig_break_link();
        bench.link = true;
        bench.dribbles = rig_random(2) != 0;
        iomt_connected(&client);
        if (rig_random(2) == 0) { /* as far as an envelope in flight */
            bench.dribbles = false;
            iomt_poll(&client);
            if (bench.mute)
                rig_push((const uint8_t *)"\x20\2\0\0", 4);
            bench.mute = true;
            iomt_poll(&client);
        }
        waiting = iomt_waiting(&client);
        wrong = (uint8_t)(client.in_flight + 1);
        for (uint32_t i = 0; i < size; i++) {
            bytes[i] = (uint8_t)(rig_random(2) ? rig_random(256) : rig_random(4));
            if (bytes[i] == (uint8_t)client.in_flight)
                bytes[i] = wrong;
        }
        if (size > 0 && rig_random(2))
            bytes[0] = starts[rig_random(sizeof starts)];
        if (size > 1 && rig_random(2))
            bytes[1] = 2;
        bench.to_device_at = bench.to_device_size = 0;
        rig_push(bytes, size);
        for (int i = 0; i < 80; i++) {
            iomt_status status = iomt_poll(&client);

            if (status >= IOMT_E_CONNECTION)
                break;
            CHECK(status == IOMT_OK, "garbage is no fault of the device", status);
            survived++;
        }
        if (bench.mute)
            CHECK(iomt_waiting(&client) == waiting, "garbage settles nothing", round);
    }
    CHECK(survived > rounds, "some garbage is waited through", survived);
    bench.mute = bench.dribbles = false;
    rig_break_link();
    drain();
    for (int id = 0; id < 3; id++)
        CHECK(bench.delivered[id] == 1, "and all is delivered after it", id);
}

/* ---- Envelopes ---- */

static void what_shares_an_envelope(const geometry *g)
{
    iomt_value one[] = {{1, 0, 0}, {2, 0, 97}};

    reset(g);
    open_client();
    for (int id = 0; id < 12; id++) {
        one[0].mantissa = id;
        iomt_record_at(&client, (uint8_t)(id >= 4 && id < 6), bench.now_ms + (id == 9 ? 1000 : 0),
                       one, 2);
    }
    drain();
    CHECK(bench.envelopes == 5, "streams and times ahead are kept apart", bench.envelopes);

    reset(g);
    open_client();
    one[0].mantissa = 0;
    iomt_record_at(&client, 0, bench.now_ms, one, 2);
    bench.now_ms += 2592000001u;
    CHECK(rig_record(&client, 1) == IOMT_OK, "takes one", 0);
    bench.any_sequence = true;
    bench.last_sequence = 999;
    drain();
    CHECK(bench.delivered[0] == 0 && bench.delivered[1] == 1, "what is too old stays", 0);
    CHECK(iomt_dropped(&client) == 1 && bench.gaps == 1, "and leaves a gap", bench.gaps);

    rig_reset(&config, 16384, 4, 4, 0xff);
    config.buffer_size = 1u << 17;
    open_client();
    for (int id = 0; id < 300; id++)
        rig_record(&client, id);
    drain();
    CHECK(bench.envelopes == 2 && bench.readings_most == 256, "256 at most", bench.envelopes);
}

static void both_algorithms(const geometry *g)
{
    static const iomt_algorithm all[] = {IOMT_EDDSA, IOMT_ES256};

    for (int i = 0; i < 2; i++) {
        reset(g);
        config.algorithm = all[i];
        open_client();
        rig_record(&client, 0);
        drain();
        CHECK(bench.last_envelope[5] == all[i], "the protected header names it", all[i]);
    }
}

static void signing_fails_for_a_while(const geometry *g)
{
    reset(g);
    open_client();
    rig_record(&client, 0);
    bench.sign_fails = bench.link = true;
    iomt_connected(&client);
    iomt_poll(&client);
    for (int i = 0; i < 3; i++)
        CHECK(iomt_poll(&client) == IOMT_E_SIGN, "tells that it cannot sign", i);
    bench.sign_fails = false;
    drain();
    CHECK(bench.delivered[0] == 1 && bench.connects == 1, "and goes on", bench.connects);
}

static void what_is_no_reading(const geometry *g)
{
    iomt_value twice[] = {{2, 0, 1}, {2, 0, 1}}, odd[] = {{1, 10, 1}}, zero[] = {{0, 0, 1}};
    iomt_value letter[] = {IOMT_LETTER(13, '?')}, good[] = {{1, 0, 1}}, many[32], wide[16];

    reset(g);
    open_client();
    for (int i = 0; i < 32; i++)
        many[i] = (iomt_value){(uint8_t)(i + 1), 0, 1};
    for (int i = 0; i < 16; i++)
        wide[i] = (iomt_value){(uint8_t)(i + 1), -9, INT64_MIN};
    CHECK(iomt_record(&client, 0, twice, 2) == IOMT_E_VALUE, "a metric twice", 0);
    CHECK(iomt_record(&client, 0, odd, 1) == IOMT_E_VALUE, "exponent 10", 0);
    CHECK(iomt_record(&client, 0, zero, 1) == IOMT_E_VALUE, "metric 0", 0);
    CHECK(iomt_record(&client, 0, letter, 1) == IOMT_E_VALUE, "no letter", 0);
    CHECK(iomt_record(&client, 0, good, 0) == IOMT_E_VALUE, "nothing", 0);
    CHECK(iomt_record(&client, 2, good, 1) == IOMT_E_VALUE, "no such stream", 0);
    CHECK(iomt_record(&client, 0, many, 32) == IOMT_E_VALUE, "32 pairs", 0);
    CHECK(iomt_record(&client, 0, many, 31) == IOMT_OK, "31 pairs", 0);
    CHECK(iomt_record(&client, 0, wide, 16) == IOMT_OK, "sixteen of the widest", 0);
    bench.now_ms = 0;
    CHECK(iomt_record(&client, 0, good, 1) == IOMT_E_TIME, "no time", 0);
    CHECK(iomt_waiting(&client) == 2, "nothing of it waits", iomt_waiting(&client));
}

static void what_is_no_configuration(const geometry *g)
{
    static const char *const bad[] = {"a b"};
    iomt_config wrong;

#define REFUSED(change)                                                      \
    do {                                                                     \
        reset(g);                                                            \
        wrong = config;                                                      \
        wrong.change;                                                        \
        CHECK(iomt_open(&client, &wrong) == IOMT_E_CONFIG, #change, 0);      \
    } while (0)
    REFUSED(device = "");
    REFUSED(device = "a/b");
    REFUSED(device = "1234567890123456789012345678901234567890123456789012345678901234x");
    REFUSED(streams = bad);
    REFUSED(stream_count = 0);
    REFUSED(algorithm = (iomt_algorithm)0x28);
    REFUSED(buffer_size = 767);
    REFUSED(password = "without a user");
    REFUSED(answer_timeout_ms = 0);
    REFUSED(flash.word_size = 3);
    REFUSED(flash.word_size = 64);
    REFUSED(flash.block_size = 256);
    REFUSED(flash.block_count = 1);
    REFUSED(flash.erased = 0x55);
}

int main(int count, char **words)
{
    int soak = count > 1 ? atoi(words[1]) : 1; /* how many times as much chance */
    size_t most = sizeof GEOMETRIES / sizeof GEOMETRIES[0];

    for (size_t i = 0; i < most; i++) {
        const geometry *g = &GEOMETRIES[i];
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
        one_by_one_and_in_pieces(g);
        lost_answers(g);
        what_shares_an_envelope(g);
        what_is_no_reading(g);
    }
    rot_at_rest(&GEOMETRIES[0]);
    silence(&GEOMETRIES[0]);
    early_answer(&GEOMETRIES[0]);
    refusal(&GEOMETRIES[0]);
    signing_fails_for_a_while(&GEOMETRIES[0]);
    both_algorithms(&GEOMETRIES[0]);
    what_is_no_configuration(&GEOMETRIES[0]);
    garbage(&GEOMETRIES[0], 20000 * soak);
    printf("%ld passed, %ld failed\n", passed, failed);
    return failed != 0;
}
