/* The log in flash: readings, and which of them each envelope took (iomt_log.c). Not part of
 * the public contract.
 *
 *   block    BLOCK record, then READING and BUNDLE records, one after the other
 *   record   01 type, 01 size of the body, 02 argument, 04 number, 04 check, body, padding
 *              BLOCK   argument: format version; number: the block's, from 1 on
 *                      body: 04 settled, 04 next reading, 08 next sequence,
 *                            04 04 place of the bundle that is not settled, or 0
 *              READING argument: stream, pairs * 256; number: the reading's
 *                      body: 06 time, its pairs in CBOR
 *              BUNDLE  argument: count; number: of its first reading
 *                      body: 08 sequence, 06 time, 01 stream, 01 backlog, 64 signature
 *
 * Integers are little-endian. Block n lies in erase block n mod block_count. `check` is
 * CRC-32 (as in Ethernet) over block number, offset, and the record without the check: a
 * record is valid only where it was written, so garbage can be stepped over word by word.
 *
 * Nothing is ever marked as delivered: a BUNDLE is written when the one before it is settled,
 * and says so by being there. What its first reading comes after is delivered or given up. */
#ifndef IOMT_LOG_H
#define IOMT_LOG_H

#include "iomt_client.h"

#define IOMT_RECORD_SIZE_MAX 256
#define IOMT_RECORD_HEAD_SIZE 12
#define IOMT_TIME_SIZE 6
#define IOMT_BODY_SIZE_MAX (IOMT_RECORD_SIZE_MAX - IOMT_RECORD_HEAD_SIZE)

typedef enum { IOMT_BLOCK = 0x42, IOMT_READING = 0x52, IOMT_BUNDLE = 0x45 } iomt_record_type;

typedef struct {
    iomt_position at;
    uint32_t size; /* in flash, with padding */
    uint32_t number;
    uint16_t argument;
    uint8_t type;
    uint8_t body_size;
    uint8_t bytes[IOMT_RECORD_SIZE_MAX]; /* as in flash */
    const uint8_t *body;                 /* in `bytes` */
} iomt_record_view;

void iomt_log_open(iomt_log *log, const iomt_flash *flash, void *context,
                   uint64_t first_sequence);

/* Append a reading; the number that it gets is log->next_reading. */
iomt_status iomt_log_append_reading(iomt_log *log, uint16_t argument, const uint8_t *body,
                                    uint32_t size);

/* Make sure that the next bundle needs no new block, which may cost the readings that it is
 * about to take; and write the record again that a power cut may have left half written. */
iomt_status iomt_log_prepare(iomt_log *log);

/* Append the bundle, which must begin with the first reading that is not settled: from here
 * on its sequence is used. */
iomt_status iomt_log_append_bundle(iomt_log *log, const iomt_bundle *bundle,
                                   const uint8_t signature[IOMT_SIGNATURE_SIZE]);

/* The signature of the outstanding bundle; false if its record cannot be read any more. */
bool iomt_log_signature(const iomt_log *log, uint8_t signature[IOMT_SIGNATURE_SIZE]);

/* Find the first reading with this number or a later one at or behind `at`; `at` is moved
 * behind it. False if there is none. */
bool iomt_log_next_reading(const iomt_log *log, iomt_position *at, uint32_t number,
                           iomt_record_view *found);

/* The outstanding bundle was delivered. */
void iomt_log_settle(iomt_log *log);

/* Give up the outstanding bundle, if there is one, and all readings below `number`. Leaves a
 * gap in the sequence. */
void iomt_log_give_up(iomt_log *log, uint32_t number);

/* Little-endian numbers of `size` bytes. */
uint64_t iomt_get(const uint8_t *from, uint32_t size);
void iomt_put(uint8_t *to, uint64_t value, uint32_t size);
void iomt_copy(uint8_t *to, const uint8_t *from, uint32_t size);

/* Whether `a` comes before `b`, of numbers that wrap around. */
bool iomt_before(uint32_t a, uint32_t b);

#endif
