/* A device on a bench: flash that loses power at any word, and a gateway that remembers what
 * it was sent. One of each, static: rig_reset() makes them new. */
#ifndef RIG_H
#define RIG_H

#include "iomt_client.h"

#include <setjmp.h>

#define RIG_FLASH_SIZE (1u << 17)
#define RIG_IDS 4096 /* readings carry these numbers, 0 upwards */

/* What a word that was being written holds afterwards, or a block that was being erased. */
typedef enum {
    CUT_NOTHING_DONE,
    CUT_GARBLED,  /* some bits done, others not */
    CUT_DONE,     /* and the power went before anybody was told */
    CUT_MARGINAL, /* reads as done until the next power cut, and garbled from then on */
    CUT_EFFECTS
} cut_effect;

typedef struct {
    uint8_t flash[RIG_FLASH_SIZE];
    uint8_t fresh[RIG_FLASH_SIZE]; /* 1: erased and not written since */
    long operations;               /* words written and blocks erased so far */
    long cut_at;                   /* the operation that the power goes in, or -1 */
    cut_effect effect;
    jmp_buf power_lost;
    bool many_cuts; /* a word whose first pulse was cut may be begun again */
    long erases;
    bool write_fails; /* the next write reports a failure, half done */
    bool write_lies;  /* the next write reports a failure and was done */
    bool rots;        /* the next write keeps something else */

    bool link;              /* the connection stands */
    bool dribbles;          /* a few bytes at a time, both ways */
    uint32_t room;          /* if not 0: bytes that the line takes, and then no more */
    bool mute;              /* the gateway takes and does not answer */
    uint8_t connack_code;   /* what CONNECT is answered with */
    long puback_lost_every; /* after so many publishes the link breaks before the PUBACK */
    uint8_t from_device[1u << 18];
    uint32_t from_device_size;
    uint8_t to_device[1u << 16];
    uint32_t to_device_size, to_device_at;
    uint64_t now_ms;
    uint32_t tick;
    bool sign_fails;
    uint32_t dice;

    uint8_t delivered[RIG_IDS]; /* how often reading n was taken */
    int last_id;
    uint64_t last_sequence;
    bool any_sequence;
    long envelopes, duplicates, dup_flags, gaps, connects, pings, readings_most, backlogs;
    uint8_t last_envelope[1u << 17];
    uint32_t last_envelope_size;
    bool last_backlog;
} rig;

extern rig bench;
extern long passed, failed;

void check(bool holds, const char *what, long detail);
#define CHECK(holds, what, detail) check((holds), (what), (long)(detail))

typedef struct {
    uint32_t block_size, block_count, word_size;
    uint8_t erased;
    int readings; /* of one day of test_power.c */
} geometry;

extern iomt_config config;
extern iomt_client client;

/* A new flash of this geometry, a new gateway, and the configuration of the device. */
void rig_reset(const geometry *g);

/* Start the device, or have it deliver all that waits. */
void rig_open(void);
void rig_drain(void);

/* Power fails and comes back: the marginal word shows what it is. */
void rig_power_cycle(void);

void rig_break_link(void);
void rig_push(const uint8_t *bytes, uint32_t size); /* bytes to the device */
uint32_t rig_random(uint32_t below);

/* A reading that carries the number `id`. */
iomt_status rig_record(int id);

/* Poll, and connect again when the connection is lost, `times` times. */
void rig_run(int times);

/* test_power.c: everything that has to do with flash. */
void test_power(const geometry *g, int soak);

#endif
