/* Puts readings in at the top and shows what comes out at the bottom, for a comparison with
 * tests/vectors/envelope:
 *
 *   stdin    device stream kid signature sequence time_ms count, then for each reading
 *            time_ms pairs, and for each pair: metric exponent mantissa
 *   stdout   "signed HEX", what the signing callback was given; "publish HEX", the packet */
#include "iomt_client.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_SIZE 16384
#define BLOCK_COUNT 4

static uint8_t flash[BLOCK_SIZE * BLOCK_COUNT], buffer[1u << 17];
static uint8_t packets[1u << 17];
static uint32_t packets_size;
static uint8_t signature[IOMT_SIGNATURE_SIZE];
static uint64_t time_ms;

static int flash_read(void *context, uint32_t address, uint8_t *to, uint32_t size)
{
    (void)context;
    memcpy(to, flash + address, size);
    return 0;
}

static int flash_write(void *context, uint32_t address, const uint8_t *from, uint32_t size)
{
    (void)context;
    memcpy(flash + address, from, size);
    return 0;
}

static int flash_erase(void *context, uint32_t address)
{
    (void)context;
    memset(flash + address, 0xff, BLOCK_SIZE);
    return 0;
}

static void print_hex(const char *what, const uint8_t *bytes, uint32_t size)
{
    printf("%s ", what);
    for (uint32_t i = 0; i < size; i++)
        printf("%02x", bytes[i]);
    printf("\n");
}

static int sign(void *context, const uint8_t *message, uint32_t size,
                uint8_t made[IOMT_SIGNATURE_SIZE])
{
    (void)context;
    print_hex("signed", message, size);
    memcpy(made, signature, sizeof signature);
    return 0;
}

static int32_t take(void *context, const uint8_t *from, uint32_t size)
{
    (void)context;
    memcpy(packets, from, size);
    packets_size = size;
    return (int32_t)size;
}

static int32_t give_connack(void *context, uint8_t *to, uint32_t size)
{
    static const uint8_t connack[] = {0x20, 2, 0, 0};
    static int given;

    (void)context;
    (void)size;
    if (packets_size == 0 || given)
        return 0;
    given = 1;
    memcpy(to, connack, sizeof connack);
    return sizeof connack;
}

static uint64_t now_ms(void *context)
{
    (void)context;
    return time_ms;
}

static uint32_t tick_ms(void *context)
{
    (void)context;
    return 0;
}

static void read_hex(uint8_t *to, uint32_t size)
{
    for (uint32_t i = 0; i < size; i++) {
        unsigned byte = 0;

        if (scanf(" %2x", &byte) != 1)
            exit(2);
        to[i] = (uint8_t)byte;
    }
}

int main(void)
{
    static char device[IOMT_NAME_MAX + 1], stream[IOMT_NAME_MAX + 1];
    static const char *streams[] = {stream};
    static iomt_config config;
    static iomt_client client;
    uint32_t count = 0, pairs;

    if (scanf("%64s %64s", device, stream) != 2)
        return 2;
    read_hex(config.kid, sizeof config.kid);
    read_hex(signature, sizeof signature);
    if (scanf("%" SCNu64 " %" SCNu64 " %" SCNu32, &config.first_sequence, &time_ms, &count) != 3)
        return 2;
    config.device = device;
    config.streams = streams;
    config.stream_count = 1;
    config.algorithm = IOMT_EDDSA;
    config.answer_timeout_ms = 1000;
    config.buffer = buffer;
    config.buffer_size = sizeof buffer;
    config.flash = (iomt_flash){BLOCK_SIZE, BLOCK_COUNT, 4, 0xff,
                                flash_read, flash_write, flash_erase};
    config.send = take;
    config.receive = give_connack;
    config.sign = sign;
    config.now_ms = now_ms;
    config.tick_ms = tick_ms;
    if (iomt_open(&client, &config) != IOMT_OK)
        return 3;
    while (count-- > 0) {
        iomt_value values[IOMT_PAIRS_MAX];
        uint64_t reading_ms;

        if (scanf("%" SCNu64 " %" SCNu32, &reading_ms, &pairs) != 2 || pairs > IOMT_PAIRS_MAX)
            return 2;
        for (uint32_t i = 0; i < pairs; i++)
            if (scanf("%" SCNu8 " %" SCNd8 " %" SCNd64, &values[i].metric, &values[i].exponent,
                      &values[i].mantissa) != 3)
                return 2;
        if (iomt_record_at(&client, 0, reading_ms, values, pairs) != IOMT_OK)
            return 3;
    }
    iomt_connected(&client);
    iomt_poll(&client);
    if (iomt_poll(&client) != IOMT_OK)
        return 3;
    print_hex("publish", packets, packets_size);
    return 0;
}
