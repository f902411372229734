/* The reference client of the IoMT edge gateway, for devices without an operating system:
 * readings go into a log in flash, and from there, in signed envelopes over MQTT 3.1.1 at
 * QoS 1, to the gateway, until its PUBACK says that they are durable. This header is the
 * contract; README.md shows it in use, docs/wire-format.md is what it speaks.
 *
 *   iomt_record() ─► log in flash ─► envelope, one sequence ─► PUBLISH ─► PUBACK ─► next
 *                        ▲               │ noted in flash before it is sent
 *                        └── power lost ─┘ the same bytes again, with DUP
 *
 * What it promises, if the flash keeps what was written to it:
 *  - What iomt_record() answered with IOMT_OK reaches the gateway, in order, through any
 *    number of power cuts and lost connections, unless the log overflows or it waits for 30
 *    days (the gateway takes nothing older). Either is counted, and leaves a gap in the
 *    sequence, which the gateway reports.
 *  - A sequence is never used for two different envelopes, and a reading never for two.
 *
 * Rules for every function: no heap, no globals; the caller owns all memory and keeps it for
 * as long as the client is used; one client is used from one thread (or never from two
 * contexts at once). Nothing blocks but the callbacks. Up to 1.5 kB of stack on a Cortex-M4,
 * beside what the callbacks need. */
#ifndef IOMT_CLIENT_H
#define IOMT_CLIENT_H

#include <stdbool.h>
#include <stdint.h>

#define IOMT_NAME_MAX 64        /* characters of a device's or a stream's name */
#define IOMT_PAIRS_MAX 31       /* values of one reading */
#define IOMT_READINGS_MAX 256   /* readings of one envelope */
#define IOMT_SIGNATURE_SIZE 64  /* of Ed25519, and of ES256 as r || s */
#define IOMT_KID_SIZE 8         /* the first bytes of SHA-256(public key) */
#define IOMT_BUFFER_SIZE_MIN 768
#define IOMT_BLOCK_SIZE_MIN 512 /* bytes of flash that one erase clears */
#define IOMT_WORD_SIZE_MAX 32   /* bytes of flash that one write fills */

typedef enum {
    IOMT_OK = 0,
    IOMT_E_CONFIG,     /* iomt_open: the configuration breaks a rule below */
    IOMT_E_VALUE,      /* iomt_record: metrics not in ascending order, none, too many, no text */
    IOMT_E_TIME,       /* iomt_record: the clock is not set */
    IOMT_E_FLASH,      /* a flash callback failed, or the flash did not keep what was written */
    IOMT_E_SIGN,       /* the signing callback failed; the next iomt_poll tries again */
    IOMT_E_CONNECTION, /* lost, silent, or not talking MQTT: close, wait, connect again */
    IOMT_E_REFUSED     /* the server does not want us (wrong password): as above */
} iomt_status;

/* ---- What the device brings along ---- */

/* The flash that the log lives in: `block_count` erase blocks in a row, addresses from 0.
 * Everything in it belongs to the log. A word is written once after each erase, so memory
 * with error correction will do. The three functions return 0, or anything else for failure;
 * a write covers whole words and stays within a block, an erase names a block's first byte.
 * Power may fail at any moment of any of them. */
typedef struct {
    uint32_t block_size;  /* a multiple of word_size, >= IOMT_BLOCK_SIZE_MIN */
    uint32_t block_count; /* >= 2; one block is lost where the log overflows */
    uint32_t word_size;   /* a power of two, 1 to IOMT_WORD_SIZE_MAX bytes */
    uint8_t erased;       /* what an erased byte reads as: 0xff or 0x00 */
    int (*read)(void *context, uint32_t address, uint8_t *to, uint32_t size);
    int (*write)(void *context, uint32_t address, const uint8_t *from, uint32_t size);
    int (*erase)(void *context, uint32_t address);
} iomt_flash;

typedef enum { IOMT_EDDSA = 0x27, IOMT_ES256 = 0x26 } iomt_algorithm; /* COSE -8 and -7 */

/* Must stay as it is while the client is used. Before `device`, the streams or the key
 * change (an update of the firmware), wait until iomt_waiting() is 0: what waits was signed
 * as it was. Where the flash's geometry changes, the log begins anew. */
typedef struct {
    const char *device;         /* 1 to 64 of A-Z a-z 0-9 . _ -, as enrolled */
    const char *const *streams; /* their names, by the number that iomt_record is given */
    uint8_t stream_count;       /* >= 1 */
    iomt_algorithm algorithm;
    uint8_t kid[IOMT_KID_SIZE];
    const char *user;     /* NULL, or for a gateway that wants name and password */
    const char *password; /* NULL, or up to 64 characters; only beside a user */

    /* The sequence to begin with where the flash holds no log yet. A device whose flash may
     * be replaced takes something that never comes again, such as the time since 1970 in
     * ms: the gateway refuses a sequence that it has seen with other bytes. */
    uint64_t first_sequence;

    uint16_t keep_alive_s;      /* 0: no keep-alive */
    uint32_t answer_timeout_ms; /* > 0; without an answer for so long, the connection is dead */

    /* Work space. An envelope is built here, so its size decides how many readings one can
     * carry: about 30 for vital signs in 1 KiB. More than 66 KiB is not used. */
    uint8_t *buffer;
    uint32_t buffer_size; /* >= IOMT_BUFFER_SIZE_MIN */

    iomt_flash flash;
    void *context; /* handed to every callback */

    /* Bytes taken or given at once, up to `size`; 0 is "none now"; below 0 is "the
     * connection is gone". Neither waits. TLS, where it is used, is below them. */
    int32_t (*send)(void *context, const uint8_t *from, uint32_t size);
    int32_t (*receive)(void *context, uint8_t *to, uint32_t size);

    /* Sign `message` with the device's key; 0 for success. It lies in `buffer`. */
    int (*sign)(void *context, const uint8_t *message, uint32_t size,
                uint8_t signature[IOMT_SIGNATURE_SIZE]);

    uint64_t (*now_ms)(void *context);  /* since 1970-01-01 UTC; 0 while it is not known */
    uint32_t (*tick_ms)(void *context); /* of a clock that is never set; wraps around */
} iomt_config;

/* ---- A reading ---- */

/* mantissa * 10^exponent in the metric's unit, exponent -9 to 9: 36.7 Cel is {3, -1, 367}.
 * The metrics are the table of docs/wire-format.md section 1. */
typedef struct {
    uint8_t metric; /* 1 to 255 */
    int8_t exponent;
    int64_t mantissa;
} iomt_value;

#define IOMT_LETTER_EXPONENT 127
#define IOMT_LETTER(metric, letter) {(metric), IOMT_LETTER_EXPONENT, (letter)} /* acvpu */

/* ---- State: the caller's memory, our content ---- */

typedef struct { /* a place in the log */
    uint32_t number; /* of the block, counted since the flash was new; 0 is nowhere */
    uint32_t offset; /* in it, in bytes */
} iomt_position;

typedef struct { /* what one envelope carries */
    uint64_t sequence;
    uint64_t time_ms; /* the envelope's */
    uint32_t first;   /* number of its first reading */
    uint16_t count;   /* of readings, all of one stream */
    uint8_t stream;
    bool backlog;
} iomt_bundle;

typedef struct {
    const iomt_flash *flash;
    void *context;
    iomt_position end;       /* where the next record goes */
    iomt_position cursor;    /* no reading from `settled` on lies before it */
    iomt_position bundle_at; /* of the newest bundle's record, while it is not settled */
    iomt_position refresh;   /* the record that was last when power came back */
    iomt_bundle bundle;
    uint64_t next_sequence;
    uint32_t next_reading;
    uint32_t settled; /* readings below this number are delivered, or given up */
    uint32_t dropped;
    bool outstanding; /* `bundle` is not settled */
    bool gap;         /* a sequence was left out since the newest bundle */
} iomt_log;

typedef struct {
    const iomt_config *config;
    iomt_log log;
    uint32_t sent_tick;  /* when the last byte went out */
    uint32_t asked_tick; /* since when an answer is awaited */
    uint32_t tx_at;      /* the bytes of buffer that are still to be sent */
    uint32_t tx_left;
    uint16_t in_flight; /* the packet id that waits for its PUBACK, or 0 */
    uint8_t failures;   /* of connections, since the last PUBACK */
    uint8_t state;
    bool sent_before;  /* `log.bundle` may have been sent: DUP */
    bool ping_pending; /* PINGREQ without its PINGRESP */
    uint8_t rx_size;   /* of the packet that is being received */
    uint8_t rx[4];
} iomt_client;

/* ---- Functions ---- */

/* Begin, after every start: find what the log holds and go on behind it. Reads the flash,
 * writes nothing. IOMT_OK or IOMT_E_CONFIG. */
iomt_status iomt_open(iomt_client *client, const iomt_config *config);

/* Put a reading into the log; with IOMT_OK it is durable. `values` come in ascending order
 * of metric, no metric twice. `stream` is an index into config->streams.
 *
 * Where the log is full its oldest block is given up. On IOMT_E_FLASH the reading is not
 * stored; to try again takes the next place in flash. A reading too large for the log (244
 * bytes; all sixteen metrics of today fit) is IOMT_E_VALUE. */
iomt_status iomt_record(iomt_client *client, uint8_t stream, const iomt_value *values,
                        uint32_t count);

/* The same for a reading that was made at `time_ms` since 1970. */
iomt_status iomt_record_at(iomt_client *client, uint8_t stream, uint64_t time_ms,
                           const iomt_value *values, uint32_t count);

/* The device has connected to the gateway: MQTT begins anew on this connection. */
void iomt_connected(iomt_client *client);

/* Send, receive and look at the clock; to be called whenever the connection has something or
 * can take something, and a few times a second in any case. Without a connection it does
 * nothing. On IOMT_E_CONNECTION and IOMT_E_REFUSED the client has given the connection up:
 * close it, wait iomt_backoff_ms(), connect, call iomt_connected(). */
iomt_status iomt_poll(iomt_client *client);

/* How long to wait before the next attempt to connect; to be called once for each that
 * failed or was lost. Anywhere up to a limit that doubles with each call, from half a second
 * to a minute, until a PUBACK comes: so a thousand devices do not come back in one moment.
 * `random` is any 32 random bits. */
uint32_t iomt_backoff_ms(iomt_client *client, uint32_t random);

/* Readings in the log that no PUBACK covers yet. */
uint32_t iomt_waiting(const iomt_client *client);

/* Readings given up since iomt_open: overwritten, unreadable, or older than 30 days. */
uint32_t iomt_dropped(const iomt_client *client);

/* The number of the next reading, counted modulo 2^32 since the flash was new. */
uint32_t iomt_next_reading(const iomt_client *client);

#endif
