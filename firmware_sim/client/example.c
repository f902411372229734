/* A device on POSIX, built from the reference client: readings into a flash that is a file,
 * Ed25519 by OpenSSL, TCP. It can be killed at any moment and goes on where it was.
 *
 *   example HOST PORT DEVICE KEY FLASH INTERVAL_MS READINGS
 *
 * KEY is a file of 64 hex digits, the seed of an Ed25519 key; its public key is printed. One
 * reading is made every INTERVAL_MS until the flash has counted READINGS; the program ends
 * with status 0 when all of them are acknowledged. READINGS 0 only prints the public key. */
#define _POSIX_C_SOURCE 200809L

#include "iomt_client.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BLOCK_SIZE 4096
#define BLOCK_COUNT 64
#define WORD_SIZE 8
#define KEY_SIZE 32
#define LATEST_POLL_MS 50

typedef struct {
    EVP_PKEY *key;
    int flash;
    int socket; /* -1: not connected */
    uint64_t last_ms;
} board;

/* ---- The callbacks ---- */

static int flash_read(void *context, uint32_t address, uint8_t *to, uint32_t size)
{
    return pread(((board *)context)->flash, to, size, address) == (ssize_t)size ? 0 : -1;
}

/* A word at a time, so that a kill can come between any two of them. */
static int flash_write(void *context, uint32_t address, const uint8_t *from, uint32_t size)
{
    for (uint32_t at = 0; at < size; at += WORD_SIZE)
        if (pwrite(((board *)context)->flash, from + at, WORD_SIZE, address + at) != WORD_SIZE)
            return -1;
    return 0;
}

static int flash_erase(void *context, uint32_t address)
{
    uint8_t blank[BLOCK_SIZE];

    memset(blank, 0xff, sizeof blank);
    return pwrite(((board *)context)->flash, blank, sizeof blank, address) == BLOCK_SIZE ? 0 : -1;
}

static int32_t link_send(void *context, const uint8_t *from, uint32_t size)
{
    ssize_t sent = send(((board *)context)->socket, from, size, MSG_NOSIGNAL | MSG_DONTWAIT);

    return sent >= 0 ? (int32_t)sent : errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -1;
}

static int32_t link_receive(void *context, uint8_t *to, uint32_t size)
{
    ssize_t got = recv(((board *)context)->socket, to, size, MSG_DONTWAIT);

    if (got == 0)
        return -1; /* closed by the gateway */
    return got > 0 ? (int32_t)got : errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -1;
}

static int sign(void *context, const uint8_t *message, uint32_t size,
                uint8_t signature[IOMT_SIGNATURE_SIZE])
{
    EVP_MD_CTX *digest = EVP_MD_CTX_new();
    size_t length = IOMT_SIGNATURE_SIZE;
    int done = digest != NULL &&
               EVP_DigestSignInit(digest, NULL, NULL, NULL, ((board *)context)->key) == 1 &&
               EVP_DigestSign(digest, signature, &length, message, size) == 1;

    EVP_MD_CTX_free(digest);
    return done ? 0 : -1;
}

static uint64_t clock_ms(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Every reading gets a time of its own. */
static uint64_t now_ms(void *context)
{
    (void)context;
    return clock_ms(CLOCK_REALTIME);
}

static uint32_t tick_ms(void *context)
{
    (void)context;
    return (uint32_t)clock_ms(CLOCK_MONOTONIC);
}

/* ---- What the board has ---- */

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void open_flash(board *the, const char *path)
{
    uint8_t blank[BLOCK_SIZE];
    off_t size;

    memset(blank, 0xff, sizeof blank);
    the->flash = open(path, O_RDWR | O_CREAT, 0600);
    if (the->flash < 0)
        fail(path);
    for (size = lseek(the->flash, 0, SEEK_END); size < BLOCK_SIZE * BLOCK_COUNT;
         size += BLOCK_SIZE)
        if (pwrite(the->flash, blank, sizeof blank, size) != BLOCK_SIZE)
            fail(path);
}

static void open_key(board *the, const char *path, uint8_t kid[IOMT_KID_SIZE])
{
    uint8_t seed[KEY_SIZE], public_key[KEY_SIZE], digest[SHA256_DIGEST_LENGTH];
    size_t size = sizeof public_key;
    FILE *file = fopen(path, "r");

    if (file == NULL)
        fail(path);
    for (int i = 0; i < KEY_SIZE; i++) {
        unsigned byte = 0;

        if (fscanf(file, "%2x", &byte) != 1)
            fail("not a key of 64 hex digits");
        seed[i] = (uint8_t)byte;
    }
    fclose(file);
    the->key = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, seed, sizeof seed);
    if (the->key == NULL || EVP_PKEY_get_raw_public_key(the->key, public_key, &size) != 1)
        fail("key");
    for (int i = 0; i < KEY_SIZE; i++)
        printf("%02x", public_key[i]);
    printf("\n");
    fflush(stdout);
    SHA256(public_key, sizeof public_key, digest);
    memcpy(kid, digest, IOMT_KID_SIZE);
}

static int connect_to(const char *host, const char *port)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
    int made = -1;

    if (getaddrinfo(host, port, &hints, &found) != 0)
        return -1;
    made = socket(found->ai_family, found->ai_socktype, found->ai_protocol);
    if (made >= 0 && connect(made, found->ai_addr, found->ai_addrlen) != 0) {
        close(made);
        made = -1;
    }
    freeaddrinfo(found);
    return made;
}

/* ---- The device ---- */

/* What its sensors would say; a time of its own for each reading. */
static void measure(board *the, iomt_client *client)
{
    uint32_t number = iomt_next_reading(client);
    iomt_value values[] = {
        {1, 0, 60 + number % 40},   /* heart rate, /min */
        {2, 0, 95 + number % 5},    /* oxygen saturation, % */
        {3, -1, 365 + number % 10}, /* body temperature, tenths of a degree */
        {14, 0, 100},               /* battery, % */
    };
    uint64_t time_ms = now_ms(the);

    if (time_ms <= the->last_ms)
        return;
    the->last_ms = time_ms;
    if (iomt_record_at(client, 0, time_ms, values, sizeof values / sizeof values[0]) != IOMT_OK)
        fprintf(stderr, "reading %lu is not stored\n", (unsigned long)number);
}

int main(int count, char **words)
{
    static const char *const streams[] = {"vitals"};
    static uint8_t buffer[4096];
    static iomt_client client;
    board the = {.socket = -1};
    iomt_config config = {.streams = streams,
                          .stream_count = 1,
                          .algorithm = IOMT_EDDSA,
                          .keep_alive_s = 30,
                          .answer_timeout_ms = 20000,
                          .buffer = buffer,
                          .buffer_size = sizeof buffer,
                          .flash = {BLOCK_SIZE, BLOCK_COUNT, WORD_SIZE, 0xff, flash_read,
                                    flash_write, flash_erase},
                          .context = &the,
                          .send = link_send,
                          .receive = link_receive,
                          .sign = sign,
                          .now_ms = now_ms,
                          .tick_ms = tick_ms};
    uint64_t next_ms = 0, connect_ms = 0, interval_ms;
    uint32_t readings;

    if (count != 8) {
        fprintf(stderr, "usage: example HOST PORT DEVICE KEY FLASH INTERVAL_MS READINGS\n");
        return 2;
    }
    config.device = words[3];
    config.first_sequence = now_ms(NULL); /* of a new flash: never the same again */
    interval_ms = strtoull(words[6], NULL, 10);
    readings = (uint32_t)strtoul(words[7], NULL, 10);
    open_key(&the, words[4], config.kid);
    if (readings == 0) {
        EVP_PKEY_free(the.key);
        return 0;
    }
    open_flash(&the, words[5]);
    srand((unsigned)(now_ms(NULL) ^ (uint64_t)getpid()));
    if (iomt_open(&client, &config) != IOMT_OK) {
        fprintf(stderr, "a wrong configuration, such as the name %s\n", words[3]);
        return 2;
    }
    while (iomt_next_reading(&client) < readings || iomt_waiting(&client) > 0) {
        uint64_t now = clock_ms(CLOCK_MONOTONIC);
        struct pollfd wait = {.fd = the.socket, .events = POLLIN};
        iomt_status status;

        if (iomt_next_reading(&client) < readings && now >= next_ms) {
            measure(&the, &client);
            next_ms = now + interval_ms;
        }
        if (the.socket < 0 && now >= connect_ms) {
            the.socket = connect_to(words[1], words[2]);
            if (the.socket >= 0)
                iomt_connected(&client);
            else
                connect_ms = now + iomt_backoff_ms(&client, (uint32_t)rand());
        }
        status = iomt_poll(&client);
        if (status == IOMT_E_CONNECTION || status == IOMT_E_REFUSED) {
            close(the.socket);
            the.socket = -1;
            connect_ms = now + iomt_backoff_ms(&client, (uint32_t)rand());
        } else if (status != IOMT_OK) {
            fprintf(stderr, "flash or key: status %d\n", (int)status);
        }
        poll(&wait, 1, interval_ms < LATEST_POLL_MS ? (int)interval_ms : LATEST_POLL_MS);
    }
    printf("%lu readings, %lu given up\n", (unsigned long)iomt_next_reading(&client),
           (unsigned long)iomt_dropped(&client));
    EVP_PKEY_free(the.key);
    return 0;
}
