/* The signed envelope in deterministic CBOR (docs/wire-format.md section 1), written without
 * a second buffer. Not part of the public contract. */
#ifndef IOMT_ENVELOPE_H
#define IOMT_ENVELOPE_H

#include "iomt_client.h"

#define IOMT_ENVELOPE_SIZE_MAX 65536
#define IOMT_ENVELOPE_HEAD_SIZE 17 /* d2 84, protected header, a0 */
#define IOMT_SIGNED_HEAD_SIZE 42   /* 84, "Signature1", protected header, external_aad */
#define IOMT_BYTES_HEAD_SIZE 3     /* of a payload of up to 65,535 bytes; 2 of up to 255 */
#define IOMT_TAIL_SIZE (2 + IOMT_SIGNATURE_SIZE)
#define IOMT_READING_HEAD_SIZE_MAX 8 /* map head 2, key 0 and an offset of 30 days 6 */

/* Bytes go to `at`, and none to `end` or behind it: `full` says that some did not fit. */
typedef struct {
    uint8_t *at;
    uint8_t *end;
    bool full;
} iomt_writer;

void iomt_write_byte(iomt_writer *writer, uint8_t byte);

/* A CBOR head: `major` is the major type, 0 to 7. */
void iomt_write_head(iomt_writer *writer, uint8_t major, uint64_t argument);

/* An integer, and text that ends with a zero byte. */
void iomt_write_number(iomt_writer *writer, int64_t number);
void iomt_write_text(iomt_writer *writer, const char *text);

/* The pairs of a reading, without the map's head; false if they are not what the format
 * allows: 1 to IOMT_PAIRS_MAX, ascending, exponents of -9 to 9, letters that are letters. */
bool iomt_write_pairs(iomt_writer *writer, const iomt_value *values, uint32_t count);

/* The payload up to its first reading. */
void iomt_write_payload_head(iomt_writer *writer, const char *device, const char *stream,
                             const iomt_bundle *bundle);

/* A reading's map up to its pairs; `age_ms` is the envelope's time less the reading's. */
void iomt_write_reading_head(iomt_writer *writer, uint32_t pairs, uint64_t age_ms);

/* What ends the payload. */
void iomt_write_payload_tail(iomt_writer *writer, const iomt_bundle *bundle);

/* Put in front of the `size` bytes of payload what they are signed with, or what an envelope
 * begins with. At least IOMT_SIGNED_HEAD_SIZE + IOMT_BYTES_HEAD_SIZE bytes before `payload`
 * are the caller's. The new beginning. */
uint8_t *iomt_signed_from(const iomt_config *config, uint8_t *payload, uint32_t size);
uint8_t *iomt_envelope_from(const iomt_config *config, uint8_t *payload, uint32_t size);

#endif
