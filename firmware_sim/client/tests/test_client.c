/* The reference client on a bench (rig.c): lost connections and answers, garbage from the
 * server, what is no reading; and test_power.c, for four geometries of flash.
 *
 * The last line says how many checks passed and failed; the exit code is 0 if none failed. */
#include "rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Small blocks, so that the ring goes round several times. */
static const geometry GEOMETRIES[] = {
    {512, 3, 4, 0xff, 40}, {512, 4, 8, 0x00, 40}, {1024, 2, 32, 0xff, 40}, {512, 6, 1, 0xff, 14},
};

static const geometry LARGE = {16384, 4, 4, 0xff, 0};

/* ---- The connection ---- */

static void one_by_one_and_in_pieces(const geometry *g)
{
    rig_reset(g);
    rig_open();
    bench.dribbles = true;
    for (int id = 0; id < 100; id++) {
        rig_record(id);
        rig_run(60);
    }
    for (int id = 0; id < 100; id++)
        CHECK(bench.delivered[id] == 1, "delivered through a slow line", id);
    CHECK(bench.connects == 1 && bench.dup_flags == 0, "one connection, no DUP", bench.connects);
    CHECK(!bench.last_backlog, "a fresh reading is no backlog", 0);
}

static void lost_answers(const geometry *g)
{
    rig_reset(g);
    rig_open();
    bench.puback_lost_every = 2;
    for (int id = 0; id < 60; id++) {
        rig_record(id);
        rig_run(5);
    }
    rig_drain();
    for (int id = 0; id < 60; id++)
        CHECK(bench.delivered[id] == 1, "lost PUBACKs lose and double nothing", id);
    CHECK(bench.duplicates > 5, "it was sent again", bench.duplicates);
    CHECK(bench.dup_flags == bench.duplicates, "every repetition is marked DUP", bench.dup_flags);
}

static void silence(const geometry *g)
{
    rig_reset(g);
    rig_open();
    bench.link = true;
    bench.mute = true;
    iomt_connected(&client);
    CHECK(iomt_poll(&client) == IOMT_OK, "waits for CONNACK", 0);
    bench.tick += 5001;
    CHECK(iomt_poll(&client) == IOMT_E_CONNECTION, "but not for ever", 0);
    CHECK(iomt_poll(&client) == IOMT_OK, "then there is no connection", 0);
    rig_break_link();
    bench.mute = false;
    rig_run(3);
    bench.tick += 15000;
    rig_run(3);
    CHECK(bench.pings == 1, "PINGREQ at half the keep-alive", bench.pings);
    bench.mute = true;
    rig_record(0);
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
    rig_drain();
    CHECK(iomt_backoff_ms(&client, 501) == 0, "until a PUBACK came", 0);
}

/* An answer to a message that is only half sent is no answer. */
static void early_answer(const geometry *g)
{
    rig_reset(g);
    rig_open();
    rig_record(0);
    rig_run(1);
    bench.room = 20;
    rig_run(1);
    CHECK(client.in_flight != 0 && client.tx_left > 0, "half of it is out", client.tx_left);
    rig_push((uint8_t[]){0x40, 2, (uint8_t)(client.in_flight >> 8), (uint8_t)client.in_flight},
             4);
    CHECK(iomt_poll(&client) == IOMT_E_CONNECTION, "too early an answer", 0);
    CHECK(iomt_waiting(&client) == 1, "settles nothing", 0);
}

static void refusal(const geometry *g)
{
    rig_reset(g);
    rig_open();
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

            rig_reset(g);
            bench.dice = dice;
            rig_open();
            for (int id = 0; id < 3; id++)
                rig_record(id);
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
    rig_drain();
    for (int id = 0; id < 3; id++)
        CHECK(bench.delivered[id] == 1, "and all is delivered after it", id);
}

/* ---- Envelopes ---- */

static void what_shares_an_envelope(const geometry *g)
{
    iomt_value one[] = {{1, 0, 0}, {2, 0, 97}};

    rig_reset(g);
    rig_open();
    for (int id = 0; id < 12; id++) {
        one[0].mantissa = id;
        iomt_record_at(&client, (uint8_t)(id >= 4 && id < 6), bench.now_ms + (id == 9 ? 1000 : 0),
                       one, 2);
    }
    rig_drain();
    CHECK(bench.envelopes == 5, "streams and times ahead are kept apart", bench.envelopes);

    rig_reset(g);
    rig_open();
    one[0].mantissa = 0;
    iomt_record_at(&client, 0, bench.now_ms, one, 2);
    bench.now_ms += 2592000001u;
    CHECK(rig_record(1) == IOMT_OK, "takes one", 0);
    bench.any_sequence = true;
    bench.last_sequence = 999;
    rig_drain();
    CHECK(bench.delivered[0] == 0 && bench.delivered[1] == 1, "what is too old stays", 0);
    CHECK(iomt_dropped(&client) == 1 && bench.gaps == 1, "and leaves a gap", bench.gaps);

    rig_reset(&LARGE);
    config.buffer_size = 1u << 17;
    rig_open();
    for (int id = 0; id < 300; id++)
        rig_record(id);
    rig_drain();
    CHECK(bench.envelopes == 2 && bench.readings_most == 256, "256 at most", bench.envelopes);
}

static void both_algorithms(const geometry *g)
{
    static const iomt_algorithm all[] = {IOMT_EDDSA, IOMT_ES256};

    for (int i = 0; i < 2; i++) {
        rig_reset(g);
        config.algorithm = all[i];
        rig_open();
        rig_record(0);
        rig_drain();
        CHECK(bench.last_envelope[5] == all[i], "the protected header names it", all[i]);
    }
}

static void signing_fails_for_a_while(const geometry *g)
{
    rig_reset(g);
    rig_open();
    rig_record(0);
    bench.sign_fails = bench.link = true;
    iomt_connected(&client);
    iomt_poll(&client);
    for (int i = 0; i < 3; i++)
        CHECK(iomt_poll(&client) == IOMT_E_SIGN, "tells that it cannot sign", i);
    bench.sign_fails = false;
    rig_drain();
    CHECK(bench.delivered[0] == 1 && bench.connects == 1, "and goes on", bench.connects);
}

static void what_is_no_reading(const geometry *g)
{
    iomt_value twice[] = {{2, 0, 1}, {2, 0, 1}}, odd[] = {{1, 10, 1}}, zero[] = {{0, 0, 1}};
    iomt_value letter[] = {IOMT_LETTER(13, '?')}, good[] = {{1, 0, 1}}, many[32], wide[16];

    rig_reset(g);
    rig_open();
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
        rig_reset(g);                                                        \
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

        test_power(g, soak);
        one_by_one_and_in_pieces(g);
        lost_answers(g);
        what_shares_an_envelope(g);
        what_is_no_reading(g);
    }
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
