/* The envelope's bytes. The payload stays where it was written; what is signed and what is
 * sent differ in what stands before it, so both beginnings are written backwards from it. */
#include "iomt_envelope.h"

#include "iomt_log.h"

#define EXPONENT_MAX 9
#define PROTECTED_SIZE 13

enum { UNSIGNED, NEGATIVE, BYTES, TEXT, ARRAY, MAP, TAG };

void iomt_write_byte(iomt_writer *writer, uint8_t byte)
{
    if (writer->at == writer->end)
        writer->full = true;
    else
        *writer->at++ = byte;
}

void iomt_write_head(iomt_writer *writer, uint8_t major, uint64_t argument)
{
    uint8_t code = (uint8_t)(major << 5), width = 1, info = 24;

    if (argument < 24) {
        iomt_write_byte(writer, (uint8_t)(code | argument));
        return;
    }
    while (width < 8 && argument >> (8 * width) != 0) {
        width = (uint8_t)(width * 2);
        info++;
    }
    iomt_write_byte(writer, (uint8_t)(code | info));
    while (width-- > 0)
        iomt_write_byte(writer, (uint8_t)(argument >> (8 * width)));
}

void iomt_write_number(iomt_writer *writer, int64_t number)
{
    if (number < 0)
        iomt_write_head(writer, NEGATIVE, ~(uint64_t)number); /* -1 - number */
    else
        iomt_write_head(writer, UNSIGNED, (uint64_t)number);
}

void iomt_write_text(iomt_writer *writer, const char *text)
{
    uint32_t size = 0;

    while (text[size] != 0)
        size++;
    iomt_write_head(writer, TEXT, size);
    for (uint32_t i = 0; i < size; i++)
        iomt_write_byte(writer, (uint8_t)text[i]);
}

bool iomt_write_pairs(iomt_writer *writer, const iomt_value *values, uint32_t count)
{
    uint8_t metric = 0;

    for (uint32_t i = 0; i < count; i++) {
        const iomt_value *value = &values[i];

        if (value->metric <= metric)
            return false;
        metric = value->metric;
        iomt_write_head(writer, UNSIGNED, metric);
        if (value->exponent == IOMT_LETTER_EXPONENT) {
            if (value->mantissa < 'A' || value->mantissa > 'Z')
                return false;
            iomt_write_head(writer, TEXT, 1);
            iomt_write_byte(writer, (uint8_t)value->mantissa);
        } else if (value->exponent == 0) {
            iomt_write_number(writer, value->mantissa);
        } else {
            if (value->exponent < -EXPONENT_MAX || value->exponent > EXPONENT_MAX)
                return false;
            iomt_write_head(writer, TAG, 4); /* decimal fraction */
            iomt_write_head(writer, ARRAY, 2);
            iomt_write_number(writer, value->exponent);
            iomt_write_number(writer, value->mantissa);
        }
    }
    return count > 0 && count <= IOMT_PAIRS_MAX;
}

void iomt_write_payload_head(iomt_writer *writer, const char *device, const char *stream,
                             const iomt_bundle *bundle)
{
    iomt_write_head(writer, MAP, bundle->backlog ? 6 : 5);
    iomt_write_number(writer, 1);
    iomt_write_text(writer, device);
    iomt_write_number(writer, 2);
    iomt_write_text(writer, stream);
    iomt_write_number(writer, 3);
    iomt_write_head(writer, UNSIGNED, bundle->sequence);
    iomt_write_number(writer, 4);
    iomt_write_head(writer, UNSIGNED, bundle->time_ms);
    iomt_write_number(writer, 5);
    iomt_write_head(writer, ARRAY, bundle->count);
}

void iomt_write_reading_head(iomt_writer *writer, uint32_t pairs, uint64_t age_ms)
{
    iomt_write_head(writer, MAP, pairs + (age_ms != 0));
    if (age_ms != 0) {
        iomt_write_number(writer, 0);
        iomt_write_number(writer, -(int64_t)age_ms);
    }
}

void iomt_write_payload_tail(iomt_writer *writer, const iomt_bundle *bundle)
{
    if (bundle->backlog) {
        iomt_write_number(writer, 6);
        iomt_write_byte(writer, 0xf5); /* true */
    }
}

static uint8_t *before(uint8_t *at, const uint8_t *bytes, uint32_t size)
{
    at -= size;
    iomt_copy(at, bytes, size);
    return at;
}

static uint8_t *bytes_head_before(uint8_t *at, uint32_t size)
{
    uint8_t head[9];
    iomt_writer writer = {head, head + sizeof head, false};

    iomt_write_head(&writer, BYTES, size);
    return before(at, head, (uint32_t)(writer.at - head));
}

static uint8_t *protected_before(const iomt_config *config, uint8_t *at)
{
    uint8_t header[1 + PROTECTED_SIZE] = {0x4d, 0xa2, 0x01, (uint8_t)config->algorithm,
                                          0x04, 0x48};

    iomt_copy(header + 6, config->kid, IOMT_KID_SIZE);
    return before(at, header, sizeof header);
}

uint8_t *iomt_signed_from(const iomt_config *config, uint8_t *payload, uint32_t size)
{
    static const char context[] = "\x84\x6aSignature1", aad[] = "\x4fiomt/reading/v1";
    uint8_t *at = bytes_head_before(payload, size);

    at = before(at, (const uint8_t *)aad, sizeof aad - 1);
    at = protected_before(config, at);
    return before(at, (const uint8_t *)context, sizeof context - 1);
}

uint8_t *iomt_envelope_from(const iomt_config *config, uint8_t *payload, uint32_t size)
{
    static const uint8_t sign1[] = {0xd2, 0x84}, unprotected[] = {0xa0};
    uint8_t *at = bytes_head_before(payload, size);

    at = before(at, unprotected, sizeof unprotected);
    at = protected_before(config, at);
    return before(at, sign1, sizeof sign1);
}
