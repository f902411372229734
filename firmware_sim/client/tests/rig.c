/* The bench: its flash, its gateway (which has its own notion of an envelope), its device. */
#include "rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

rig bench;
iomt_config config;
iomt_client client;
long passed, failed;

static uint8_t buffer[1u << 17];
static struct {
    uint32_t address, size;
    uint8_t garbled[IOMT_WORD_SIZE_MAX];
} marginal;
static uint32_t block_size, block_count, word_size;
static uint8_t erased;

void check(bool holds, const char *what, long detail)
{
    if (holds) {
        passed++;
        return;
    }
    failed++;
    if (failed < 40)
        printf("FAILED %s (%ld)\n", what, detail);
}

uint32_t rig_random(uint32_t below)
{
    bench.dice = bench.dice * 1664525u + 1013904223u;
    return (bench.dice >> 8) % below;
}

/* ---- Flash ---- */

static int flash_read(void *context, uint32_t address, uint8_t *to, uint32_t size)
{
    (void)context;
    CHECK(address + size <= block_size * block_count, "reads inside its flash", address);
    memcpy(to, bench.flash + address, size);
    return 0;
}

static bool is_cut(void)
{
    return bench.operations++ == bench.cut_at;
}

static bool is_blank(const uint8_t *word)
{
    for (uint32_t i = 0; i < word_size; i++)
        if (word[i] != erased)
            return false;
    return true;
}

static int flash_write(void *context, uint32_t address, const uint8_t *from, uint32_t size)
{
    (void)context;
    CHECK(address % word_size == 0 && size % word_size == 0, "writes whole words", address);
    CHECK(address / block_size == (address + size - 1) / block_size, "within a block", address);
    for (uint32_t at = 0; at < size; at += word_size) {
        uint8_t *word = bench.flash + address + at;
        bool cut = is_cut();

        CHECK(bench.fresh[address + at] || (bench.many_cuts && is_blank(word)),
              "no word is written twice", address + at);
        bench.fresh[address + at] = 0;
        if (bench.write_fails || (cut && bench.effect == CUT_GARBLED)) {
            for (uint32_t i = 0; i < word_size; i++)
                word[i] = (uint8_t)rig_random(256);
            word[0] = word[0] == erased ? 0x77 : word[0]; /* else as CUT_NOTHING_DONE */
            if (bench.write_fails) {
                bench.write_fails = false;
                return -1;
            }
        } else if (!cut || bench.effect != CUT_NOTHING_DONE) {
            memcpy(word, from + at, word_size);
        }
        if (bench.rots) {
            bench.rots = false;
            word[0] ^= 4;
        }
        if (cut && bench.effect == CUT_MARGINAL) {
            marginal.address = address + at;
            marginal.size = word_size;
            for (uint32_t i = 0; i < word_size; i++)
                marginal.garbled[i] = (uint8_t)(word[i] ^ (1u << rig_random(8)));
        }
        if (cut)
            longjmp(bench.power_lost, 1);
    }
    if (bench.write_lies) {
        bench.write_lies = false;
        return -1;
    }
    return 0;
}

static int flash_erase(void *context, uint32_t address)
{
    bool cut = is_cut();

    (void)context;
    CHECK(address % block_size == 0, "erases at a block's beginning", address);
    bench.erases++;
    if (marginal.address / block_size == address / block_size)
        marginal.size = 0;
    for (uint32_t i = 0; i < block_size; i++) {
        bool done = !cut || bench.effect >= CUT_DONE ||
                    (bench.effect == CUT_GARBLED && rig_random(2) == 0);

        if (done)
            bench.flash[address + i] = erased;
        bench.fresh[address + i] = !cut; /* may look erased and not be */
    }
    if (cut)
        longjmp(bench.power_lost, 1);
    return 0;
}

void rig_power_cycle(void)
{
    bench.cut_at = -1;
    rig_break_link();
    if (marginal.size != 0 && bench.effect == CUT_MARGINAL)
        bench.effect = CUT_EFFECTS; /* read well this time */
    else if (marginal.size != 0) {
        memcpy(bench.flash + marginal.address, marginal.garbled, marginal.size);
        marginal.size = 0;
    }
}

/* ---- The gateway ---- */

void rig_push(const uint8_t *bytes, uint32_t size)
{
    memcpy(bench.to_device + bench.to_device_size, bytes, size);
    bench.to_device_size += size;
}

void rig_break_link(void)
{
    bench.link = false;
    bench.from_device_size = bench.to_device_size = bench.to_device_at = 0;
}

static uint64_t head(const uint8_t **at, uint8_t major)
{
    uint8_t first = *(*at)++;
    uint64_t argument = first & 31;

    CHECK(first >> 5 == major, "the expected CBOR type", first);
    if (argument >= 24) {
        uint32_t width = 1u << (argument - 24);

        for (argument = 0; width > 0; width--)
            argument = argument << 8 | *(*at)++;
    }
    return argument;
}

static void take_readings(const uint8_t *at, uint64_t sequence, uint64_t time_ms)
{
    uint64_t count = head(&at, 4);

    (void)sequence;
    CHECK(count >= 1 && count <= IOMT_READINGS_MAX, "1 to 256 readings", count);
    if ((long)count > bench.readings_most)
        bench.readings_most = (long)count;
    for (; count > 0; count--) {
        uint64_t pairs = head(&at, 5), id;

        if (*at == 0) {
            at++;
            CHECK(head(&at, 1) < time_ms, "offsets are within the envelope's time", pairs);
            pairs--;
        }
        CHECK(pairs == 2 && head(&at, 0) == 1, "first metric", pairs);
        id = head(&at, 0);
        CHECK(head(&at, 0) == 2 && head(&at, 0) == 97, "second metric", id);
        CHECK(id < RIG_IDS, "a number that was given out", id);
        if (id < RIG_IDS)
            bench.delivered[id]++;
        CHECK((int)id > bench.last_id, "readings come in order", id);
        bench.last_id = (int)id;
    }
    bench.last_backlog = *at == 6;
    bench.backlogs += bench.last_backlog;
}

static void take_signature(const uint8_t *message, uint32_t size, uint8_t signature[64])
{
    uint32_t mix = 2166136261u;

    for (uint32_t i = 0; i < size; i++)
        mix = (mix ^ message[i]) * 16777619u;
    for (int i = 0; i < 64; i++)
        signature[i] = (uint8_t)(mix >> (i % 4 * 8)) ^ (uint8_t)i;
}

/* What is signed, from what is sent: the test's own notion of it. */
static void check_signature(const uint8_t *envelope, const uint8_t *payload, uint32_t size)
{
    static uint8_t message[1u << 17];
    uint8_t signature[64];
    uint32_t length = 0;
    const uint8_t *bytes_head = envelope + 17;

    memcpy(message, "\x84\x6aSignature1", 12);
    memcpy(message + 12, envelope + 2, 14);
    memcpy(message + 26, "\x4fiomt/reading/v1", 16);
    length = 42;
    memcpy(message + length, bytes_head, (size_t)(payload - bytes_head) + size);
    length += (uint32_t)(payload - bytes_head) + size;
    take_signature(message, length, signature);
    CHECK(payload[size] == 0x58 && payload[size + 1] == 64, "a signature's head", size);
    CHECK(memcmp(signature, payload + size + 2, 64) == 0, "the signature of this payload", size);
}

static void take_envelope(const uint8_t *envelope, uint32_t size)
{
    static uint8_t kept[64][2048];
    static uint32_t kept_size[64];
    const uint8_t *at = envelope + 17, *payload;
    uint64_t sequence, time_ms;
    uint32_t length, slot;

    CHECK(memcmp(envelope, "\xd2\x84\x4d\xa2\x01", 5) == 0, "COSE_Sign1", size);
    length = (uint32_t)head(&at, 2);
    payload = at;
    CHECK(payload + length + 66 == envelope + size, "an envelope's size", size);
    check_signature(envelope, payload, length);
    head(&at, 5);
    CHECK(*at++ == 1, "device", 0);
    at += head(&at, 3);
    CHECK(*at++ == 2, "stream", 0);
    at += head(&at, 3);
    CHECK(*at++ == 3, "sequence", 0);
    sequence = head(&at, 0);
    CHECK(*at++ == 4, "time", 0);
    time_ms = head(&at, 0);
    CHECK(*at++ == 5, "readings", 0);
    memcpy(bench.last_envelope, envelope, size);
    bench.last_envelope_size = size;
    slot = (uint32_t)(sequence % 64);
    if (bench.any_sequence && sequence <= bench.last_sequence) {
        bench.duplicates++;
        CHECK(sequence == bench.last_sequence, "only the newest is sent again", sequence);
        if (size <= sizeof kept[0])
            CHECK(kept_size[slot] == size && memcmp(kept[slot], envelope, size) == 0,
                  "one sequence, one content", sequence);
        return;
    }
    if (bench.any_sequence && sequence != bench.last_sequence + 1)
        bench.gaps++;
    bench.any_sequence = true;
    bench.last_sequence = sequence;
    bench.envelopes++;
    if (size <= sizeof kept[0])
        memcpy(kept[slot], envelope, kept_size[slot] = size);
    take_readings(at, sequence, time_ms);
}

static void take_packet(const uint8_t *packet, const uint8_t *body, uint32_t size)
{
    static const uint8_t pingresp[] = {0xd0, 0};
    uint8_t connack[] = {0x20, 2, 0, bench.connack_code}, puback[] = {0x40, 2, 0, 0};
    uint32_t topic;

    switch (*packet & 0xf0) {
    case 0x10:
        bench.connects++;
        CHECK(memcmp(body, "\0\4MQTT\4", 7) == 0 && (body[7] & 2) != 0, "CONNECT", size);
        if (!bench.mute)
            rig_push(connack, 4);
        return;
    case 0x30:
        CHECK((*packet & 0xf7) == 0x32, "PUBLISH at QoS 1", *packet);
        bench.dup_flags += (*packet & 8) != 0;
        topic = (uint32_t)body[0] << 8 | body[1];
        CHECK(topic >= 23 && memcmp(body + 2, "iomt/v1/monitor-7/", 18) == 0, "topic", topic);
        memcpy(puback + 2, body + 2 + topic, 2);
        take_envelope(body + 4 + topic, size - 4 - topic);
        if (bench.mute)
            return;
        if (bench.puback_lost_every != 0 &&
            (bench.envelopes + bench.duplicates) % bench.puback_lost_every == 0)
            rig_break_link();
        else
            rig_push(puback, 4);
        return;
    case 0xc0:
        bench.pings++;
        CHECK(size == 0, "PINGREQ", size);
        if (!bench.mute)
            rig_push(pingresp, 2);
        return;
    default:
        CHECK(false, "a packet that a publisher sends", *packet);
    }
}

static void take_packets(void)
{
    uint32_t at = 0;

    while (bench.link && bench.from_device_size - at >= 2) {
        uint32_t size = 0, width = 0, left = bench.from_device_size - at;
        const uint8_t *packet = bench.from_device + at;

        do {
            if (1 + width >= left)
                goto out;
            size |= (uint32_t)(packet[1 + width] & 127) << (7 * width);
        } while (packet[1 + width++] & 128);
        if (left < 1 + width + size)
            break;
        at += 1 + width + size;
        take_packet(packet, packet + 1 + width, size);
    }
out:
    if (!bench.link)
        return;
    memmove(bench.from_device, bench.from_device + at, bench.from_device_size - at);
    bench.from_device_size -= at;
}

static int32_t link_send(void *context, const uint8_t *from, uint32_t size)
{
    (void)context;
    if (!bench.link)
        return -1;
    if (bench.dribbles) {
        uint32_t part = rig_random(40);

        size = part < size ? part : size;
    }
    if (bench.room != 0) {
        size = size < bench.room - 1 ? size : bench.room - 1;
        bench.room -= size;
    }
    memcpy(bench.from_device + bench.from_device_size, from, size);
    bench.from_device_size += size;
    take_packets();
    return (int32_t)size;
}

static int32_t link_receive(void *context, uint8_t *to, uint32_t size)
{
    uint32_t left = bench.to_device_size - bench.to_device_at;

    (void)context;
    if (!bench.link)
        return -1;
    if (bench.dribbles && left > 0)
        left = 1;
    size = left < size ? left : size;
    memcpy(to, bench.to_device + bench.to_device_at, size);
    bench.to_device_at += size;
    if (bench.to_device_at == bench.to_device_size)
        bench.to_device_at = bench.to_device_size = 0;
    return (int32_t)size;
}

/* ---- The device ---- */

static int sign(void *context, const uint8_t *message, uint32_t size, uint8_t signature[64])
{
    (void)context;
    take_signature(message, size, signature);
    return bench.sign_fails ? -1 : 0;
}

static uint64_t now_ms(void *context)
{
    (void)context;
    return bench.now_ms;
}

static uint32_t tick_ms(void *context)
{
    (void)context;
    return bench.tick;
}

void rig_reset(const geometry *g)
{
    uint32_t size = g->block_size, count = g->block_count, word = g->word_size;
    uint8_t blank = g->erased;
    static const char *const streams[] = {"vitals", "other"};
    iomt_config made = {.device = "monitor-7",
                        .streams = streams,
                        .stream_count = 2,
                        .algorithm = IOMT_EDDSA,
                        .kid = {1, 2, 3, 4, 5, 6, 7, 8},
                        .first_sequence = 1000,
                        .keep_alive_s = 30,
                        .answer_timeout_ms = 5000,
                        .buffer = buffer,
                        .buffer_size = 1024,
                        .send = link_send,
                        .receive = link_receive,
                        .sign = sign,
                        .now_ms = now_ms,
                        .tick_ms = tick_ms};

    memset(&bench, 0, sizeof bench);
    memset(bench.flash, blank, size * count);
    memset(bench.flash + size, 0x5a, size); /* a block that was used for something else */
    memset(&marginal, 0, sizeof marginal);
    bench.cut_at = -1;
    bench.last_id = -1;
    bench.dice = 7;
    bench.now_ms = 1700000000000u;
    block_size = size;
    block_count = count;
    word_size = word;
    erased = blank;
    made.flash = (iomt_flash){size, count, word, blank, flash_read, flash_write, flash_erase};
    config = made;
}

iomt_status rig_record(int id)
{
    iomt_value values[] = {{1, 0, id}, {2, 0, 97}};

    bench.now_ms += 1000;
    bench.tick += 1000;
    return iomt_record(&client, 0, values, 2);
}

void rig_run(int times)
{
    while (times-- > 0) {
        if (!bench.link) {
            bench.link = true;
            iomt_connected(&client);
        }
        if (iomt_poll(&client) >= IOMT_E_CONNECTION)
            rig_break_link();
        bench.tick += 10;
    }
}

void rig_open(void)
{
    CHECK(iomt_open(&client, &config) == IOMT_OK, "opens", 0);
}

void rig_drain(void)
{
    rig_run(400);
    CHECK(iomt_waiting(&client) == 0, "everything waiting is delivered", iomt_waiting(&client));
}
