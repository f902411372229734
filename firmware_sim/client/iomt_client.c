/* The client: what goes into the next envelope, and MQTT 3.1.1 as a publisher speaks it.
 *
 *   OFFLINE ── iomt_connected ─► CONNECTING ── CONNACK ─► READY ─┬─ PUBLISH ─► waits ─ PUBACK ┐
 *      ▲                              │                     │    └────────────◄───────────────┘
 *      └── lost, silent, wrong answer ┴─────────────────────┘
 *
 * One message is in flight. While it is, readings gather, and the next envelope takes them
 * all: the window of one costs a round trip for each envelope, not for each reading.
 *
 * The buffer holds either one packet that is on its way out, or nothing that matters. An
 * envelope is built at HEADROOM, so that there is room before it for its signature's input
 * and then for the packet's head; what is sent again is built again, from flash. */
#include "iomt_envelope.h"
#include "iomt_log.h"

#include <stddef.h>

#define TOPIC_PREFIX "iomt/v1/"
#define TOPIC_SIZE_MAX (8 + 2 * IOMT_NAME_MAX + 1)
/* Packet type, length of 4, topic with its length, packet id; then the envelope's own head. */
#define HEADROOM (5 + 2 + TOPIC_SIZE_MAX + 2 + IOMT_ENVELOPE_HEAD_SIZE + IOMT_BYTES_HEAD_SIZE)
#define LATE_MS 60000u        /* readings that wait so long are backlog */
#define AGE_MAX_MS 2592000000u /* 30 days; the gateway takes nothing older */
#define BACKOFF_BASE_MS 500u
#define BACKOFF_DOUBLINGS_MAX 7u /* up to a minute */
#define RECEIVE_SIZE 32
#define RECEIVES_MAX 8 /* in one poll: a flood must not hold the device */

enum { OFFLINE, CONNECTING, READY };
enum { CONNECT = 0x10, CONNACK = 0x20, PUBLISH = 0x30, PUBACK = 0x40, PINGREQ = 0xc0,
       PINGRESP = 0xd0 };
enum { QOS_1 = 0x02, DUP = 0x08 };

/* ---- Configuration ---- */

static uint32_t length_of(const char *text, uint32_t limit)
{
    uint32_t length = 0;

    while (text != NULL && length <= limit && text[length] != 0)
        length++;
    return length;
}

static bool is_name(const char *text)
{
    uint32_t length = length_of(text, IOMT_NAME_MAX);

    for (uint32_t i = 0; i < length; i++) {
        char c = text[i];

        if (!((c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
              c == '.' || c == '_' || c == '-'))
            return false;
    }
    return length >= 1 && length <= IOMT_NAME_MAX;
}

static bool is_usable(const iomt_config *config)
{
    const iomt_flash *flash = &config->flash;
    uint32_t word = flash->word_size;

    if (!is_name(config->device) || config->stream_count == 0 || config->buffer == NULL ||
        config->buffer_size < IOMT_BUFFER_SIZE_MIN ||
        (config->algorithm != IOMT_EDDSA && config->algorithm != IOMT_ES256))
        return false;
    for (uint32_t i = 0; i < config->stream_count; i++)
        if (!is_name(config->streams[i]))
            return false;
    if (length_of(config->user, IOMT_NAME_MAX) > IOMT_NAME_MAX ||
        length_of(config->password, IOMT_NAME_MAX) > IOMT_NAME_MAX ||
        (config->password != NULL && config->user == NULL))
        return false;
    return config->answer_timeout_ms > 0 && word >= 1 && word <= IOMT_WORD_SIZE_MAX &&
           (word & (word - 1)) == 0 &&
           flash->block_size >= IOMT_BLOCK_SIZE_MIN && flash->block_size % word == 0 &&
           flash->block_count >= 2 && (flash->erased == 0xff || flash->erased == 0x00);
}

iomt_status iomt_open(iomt_client *client, const iomt_config *config)
{
    static const iomt_client nothing;

    if (!is_usable(config))
        return IOMT_E_CONFIG;
    *client = nothing;
    client->config = config;
    client->sent_before = true; /* what the log holds as outstanding may have been sent */
    iomt_log_open(&client->log, &config->flash, config->context, config->first_sequence);
    return IOMT_OK;
}

/* ---- Readings in ---- */

iomt_status iomt_record_at(iomt_client *client, uint8_t stream, uint64_t time_ms,
                           const iomt_value *values, uint32_t count)
{
    uint8_t body[IOMT_BODY_SIZE_MAX];
    iomt_writer writer = {body + IOMT_TIME_SIZE, body + sizeof body, false};

    if (time_ms == 0 || time_ms >> (8 * IOMT_TIME_SIZE) != 0)
        return IOMT_E_TIME;
    if (stream >= client->config->stream_count || !iomt_write_pairs(&writer, values, count) ||
        writer.full)
        return IOMT_E_VALUE;
    iomt_put(body, time_ms, IOMT_TIME_SIZE);
    return iomt_log_append_reading(&client->log, (uint16_t)(stream | count << 8), body,
                                   (uint32_t)(writer.at - body));
}

iomt_status iomt_record(iomt_client *client, uint8_t stream, const iomt_value *values,
                        uint32_t count)
{
    uint64_t now_ms = client->config->now_ms(client->config->context);

    return iomt_record_at(client, stream, now_ms, values, count);
}

uint32_t iomt_waiting(const iomt_client *client)
{
    return client->log.next_reading - client->log.settled;
}

uint32_t iomt_dropped(const iomt_client *client)
{
    return client->log.dropped;
}

uint32_t iomt_next_reading(const iomt_client *client)
{
    return client->log.next_reading;
}

/* ---- The next envelope ---- */

static uint64_t time_of(const iomt_record_view *reading)
{
    return iomt_get(reading->body, IOMT_TIME_SIZE);
}

/* Bytes of payload that the buffer has room for. */
static uint32_t payload_room(const iomt_config *config)
{
    uint32_t room = config->buffer_size - HEADROOM - IOMT_TAIL_SIZE;
    uint32_t most = IOMT_ENVELOPE_SIZE_MAX - IOMT_ENVELOPE_HEAD_SIZE - IOMT_BYTES_HEAD_SIZE -
                    IOMT_TAIL_SIZE;

    return room < most ? room : most;
}

/* The payload's size without readings, at most. */
static uint32_t frame_size(const iomt_config *config, uint8_t stream)
{
    return 1 + 3 + length_of(config->device, IOMT_NAME_MAX) + 3 +
           length_of(config->streams[stream], IOMT_NAME_MAX) + 10 + 10 + 4 + 2;
}

static uint32_t size_in_envelope(const iomt_record_view *reading)
{
    return IOMT_READING_HEAD_SIZE_MAX + reading->body_size - IOMT_TIME_SIZE;
}

static bool is_expired(uint64_t time_ms, uint64_t now_ms)
{
    return now_ms > time_ms && now_ms - time_ms > AGE_MAX_MS;
}

/* Find the first reading that can still be delivered; what lies before it is given up. */
static bool find_first(iomt_client *client, uint64_t now_ms, iomt_position *at,
                       iomt_record_view *found)
{
    iomt_log *log = &client->log;

    while (log->settled != log->next_reading) {
        *at = log->cursor;
        if (!iomt_log_next_reading(log, at, log->settled, found)) {
            iomt_log_give_up(log, log->next_reading);
            return false;
        }
        log->cursor = found->at;
        iomt_log_give_up(log, found->number); /* numbers that are missing, if any */
        if (!is_expired(time_of(found), now_ms) &&
            (found->argument & 0xff) < client->config->stream_count)
            return true;
        iomt_log_give_up(log, found->number + 1);
    }
    return false;
}

/* Choose what the next envelope carries: as many readings of one stream, in order, as fit
 * and as the gateway takes together. One whose time lies ahead (the clock was set back)
 * shares no envelope with others: it would have them refused too. */
static bool plan(iomt_client *client, iomt_bundle *bundle)
{
    iomt_log *log = &client->log;
    const iomt_config *config = client->config;
    uint64_t now_ms = config->now_ms(config->context), oldest_ms, newest_ms;
    uint32_t room;
    bool ahead;
    iomt_position at;
    iomt_record_view reading;

    if (!find_first(client, now_ms, &at, &reading))
        return false;
    bundle->sequence = log->next_sequence;
    bundle->first = reading.number;
    bundle->count = 1;
    bundle->stream = (uint8_t)reading.argument;
    oldest_ms = newest_ms = time_of(&reading);
    ahead = oldest_ms > now_ms;
    room = payload_room(config) - frame_size(config, bundle->stream) - size_in_envelope(&reading);
    while (bundle->count < IOMT_READINGS_MAX &&
           iomt_log_next_reading(log, &at, bundle->first + bundle->count, &reading)) {
        uint64_t time_ms = time_of(&reading);
        uint64_t low_ms = time_ms < oldest_ms ? time_ms : oldest_ms;
        uint64_t high_ms = time_ms > newest_ms ? time_ms : newest_ms;

        if (reading.number != bundle->first + bundle->count ||
            (uint8_t)reading.argument != bundle->stream || (time_ms > now_ms) != ahead ||
            high_ms - low_ms > AGE_MAX_MS || is_expired(time_ms, now_ms) ||
            size_in_envelope(&reading) > room)
            break;
        room -= size_in_envelope(&reading);
        oldest_ms = low_ms;
        newest_ms = high_ms;
        bundle->count++;
    }
    bundle->time_ms = newest_ms > now_ms ? newest_ms : now_ms;
    bundle->backlog = now_ms == 0 || bundle->time_ms - oldest_ms > LATE_MS;
    return true;
}

/* Write the payload of this bundle at HEADROOM. The same bundle gives the same bytes. 0 if a
 * reading of it is not there any more. */
static uint32_t write_payload(iomt_client *client, const iomt_bundle *bundle)
{
    const iomt_config *config = client->config;
    uint8_t *payload = config->buffer + HEADROOM;
    iomt_writer writer = {payload, payload + payload_room(config), false};
    iomt_position at = client->log.cursor;
    iomt_record_view reading;

    if (bundle->stream >= config->stream_count)
        return 0;
    iomt_write_payload_head(&writer, config->device, config->streams[bundle->stream], bundle);
    for (uint32_t i = 0; i < bundle->count; i++) {
        uint32_t number = bundle->first + i;
        uint64_t time_ms;

        if (!iomt_log_next_reading(&client->log, &at, number, &reading) ||
            reading.number != number)
            return 0;
        time_ms = time_of(&reading);
        if (time_ms > bundle->time_ms)
            return 0;
        iomt_write_reading_head(&writer, reading.argument >> 8, bundle->time_ms - time_ms);
        for (uint32_t k = IOMT_TIME_SIZE; k < reading.body_size; k++)
            iomt_write_byte(&writer, reading.body[k]);
    }
    iomt_write_payload_tail(&writer, bundle);
    return writer.full ? 0 : (uint32_t)(writer.at - payload);
}

/* ---- Packets out ---- */

static uint8_t *put_text(uint8_t *to, const char *text)
{
    uint32_t length = length_of(text, TOPIC_SIZE_MAX);

    to[0] = (uint8_t)(length >> 8);
    to[1] = (uint8_t)length;
    iomt_copy(to + 2, (const uint8_t *)text, length);
    return to + 2 + length;
}

/* Remaining length (section 2.2.3) and packet type in front of `from`. */
static void send_packet(iomt_client *client, uint8_t type, uint8_t *from, uint8_t *end)
{
    uint8_t length[4], bytes = 0;
    uint32_t left = (uint32_t)(end - from);

    do {
        length[bytes++] = (uint8_t)(left < 128 ? left : 128 | (left & 127));
        left >>= 7;
    } while (left > 0);
    iomt_copy(from -= bytes, length, bytes);
    *--from = type;
    client->tx_at = (uint32_t)(from - client->config->buffer);
    client->tx_left = (uint32_t)(end - from);
}

/* CONNECT, section 3.1: a clean session, for nothing of it is needed but the log. */
static void send_connect(iomt_client *client)
{
    const iomt_config *config = client->config;
    uint8_t *from = config->buffer + HEADROOM, *at = put_text(from, "MQTT");

    *at++ = 4; /* 3.1.1 */
    *at++ = (uint8_t)(0x02 | (config->user != NULL ? 0x80 : 0) |
                      (config->password != NULL ? 0x40 : 0));
    *at++ = (uint8_t)(config->keep_alive_s >> 8);
    *at++ = (uint8_t)config->keep_alive_s;
    at = put_text(at, config->device);
    if (config->user != NULL)
        at = put_text(at, config->user);
    if (config->password != NULL)
        at = put_text(at, config->password);
    send_packet(client, CONNECT, from, at);
}

static void send_publish(iomt_client *client, uint32_t payload_size,
                         const uint8_t signature[IOMT_SIGNATURE_SIZE])
{
    const iomt_config *config = client->config;
    const iomt_bundle *bundle = &client->log.bundle;
    const char *parts[] = {TOPIC_PREFIX, config->device, "/", config->streams[bundle->stream]};
    uint8_t *payload = config->buffer + HEADROOM, *end = payload + payload_size, *from;
    uint32_t size = 0;

    *end++ = 0x58;
    *end++ = IOMT_SIGNATURE_SIZE;
    iomt_copy(end, signature, IOMT_SIGNATURE_SIZE);
    end += IOMT_SIGNATURE_SIZE;
    from = iomt_envelope_from(config, payload, payload_size);
    client->in_flight = (uint16_t)bundle->sequence;
    if (client->in_flight == 0) /* which is no packet id */
        client->in_flight = 0x8000;
    *--from = (uint8_t)client->in_flight;
    *--from = (uint8_t)(client->in_flight >> 8);
    for (uint32_t i = 4; i-- > 0;) {
        uint32_t length = length_of(parts[i], IOMT_NAME_MAX);

        from -= length;
        iomt_copy(from, (const uint8_t *)parts[i], length);
        size += length;
    }
    *--from = (uint8_t)size;
    *--from = (uint8_t)(size >> 8);
    send_packet(client, (uint8_t)(PUBLISH | QOS_1 | (client->sent_before ? DUP : 0)), from, end);
    client->sent_before = true;
    client->asked_tick = config->tick_ms(config->context);
}

/* Send the outstanding bundle once more. */
static iomt_status send_again(iomt_client *client)
{
    uint8_t signature[IOMT_SIGNATURE_SIZE];
    const iomt_bundle *bundle = &client->log.bundle;
    uint32_t size = write_payload(client, bundle);

    if (size == 0 || !iomt_log_signature(&client->log, signature))
        iomt_log_give_up(&client->log, bundle->first + 1);
    else
        send_publish(client, size, signature);
    return IOMT_OK;
}

/* Choose, sign, note in flash, send. */
static iomt_status send_new(iomt_client *client)
{
    const iomt_config *config = client->config;
    uint8_t signature[IOMT_SIGNATURE_SIZE], *payload = config->buffer + HEADROOM, *from;
    uint32_t size;
    iomt_bundle bundle;
    iomt_status status;

    if (!plan(client, &bundle))
        return IOMT_OK;
    size = write_payload(client, &bundle);
    if (size == 0)
        return IOMT_E_FLASH;
    from = iomt_signed_from(config, payload, size);
    if (config->sign(config->context, from, (uint32_t)(payload + size - from), signature) != 0)
        return IOMT_E_SIGN;
    status = iomt_log_append_bundle(&client->log, &bundle, signature);
    if (status != IOMT_OK)
        return status;
    client->sent_before = false;
    send_publish(client, size, signature);
    return IOMT_OK;
}

/* ---- Packets in ---- */

static iomt_status handle(iomt_client *client)
{
    const uint8_t *packet = client->rx;
    bool answered = client->tx_left == 0; /* nobody can have answered half a packet */

    if (packet[0] == CONNACK && packet[1] == 2 && client->state == CONNECTING && answered) {
        if (packet[2] > 1 || packet[3] != 0)
            return packet[2] > 1 ? IOMT_E_CONNECTION : IOMT_E_REFUSED;
        client->state = READY;
        return IOMT_OK;
    }
    if (packet[0] == PUBACK && packet[1] == 2 && client->in_flight != 0 && answered &&
        (packet[2] << 8 | packet[3]) == client->in_flight) {
        client->in_flight = 0;
        client->failures = 0;
        client->asked_tick = client->config->tick_ms(client->config->context);
        if (client->log.outstanding) /* else it was overwritten meanwhile */
            iomt_log_settle(&client->log);
        return IOMT_OK;
    }
    if (packet[0] == PINGRESP && packet[1] == 0 && client->ping_pending) {
        client->ping_pending = false;
        return IOMT_OK;
    }
    return IOMT_E_CONNECTION; /* nothing else is ever sent to us */
}

/* All packets that we expect are of 2 or 4 bytes: type, remaining length, and the rest. */
static iomt_status take_byte(iomt_client *client, uint8_t byte)
{
    client->rx[client->rx_size++] = byte;
    if (client->rx_size < 2)
        return IOMT_OK;
    if (client->rx[1] > 2)
        return IOMT_E_CONNECTION;
    if (client->rx_size < 2 + client->rx[1])
        return IOMT_OK;
    client->rx_size = 0;
    return handle(client);
}

static iomt_status receive(iomt_client *client)
{
    const iomt_config *config = client->config;
    uint8_t bytes[RECEIVE_SIZE];

    for (int turn = 0; turn < RECEIVES_MAX; turn++) {
        int32_t size = config->receive(config->context, bytes, sizeof bytes);

        if (size < 0 || size > RECEIVE_SIZE)
            return IOMT_E_CONNECTION;
        for (int32_t i = 0; i < size; i++) {
            iomt_status status = take_byte(client, bytes[i]);

            if (status != IOMT_OK)
                return status;
        }
        if (size < RECEIVE_SIZE)
            break;
    }
    return IOMT_OK;
}

/* ---- The loop ---- */

static iomt_status flush(iomt_client *client)
{
    const iomt_config *config = client->config;

    while (client->tx_left > 0) {
        int32_t size =
            config->send(config->context, config->buffer + client->tx_at, client->tx_left);

        if (size < 0 || (uint32_t)size > client->tx_left)
            return IOMT_E_CONNECTION;
        if (size == 0)
            break;
        client->tx_at += (uint32_t)size;
        client->tx_left -= (uint32_t)size;
        client->sent_tick = config->tick_ms(config->context);
    }
    return IOMT_OK;
}

/* The next thing to say, once the last one is out. */
static iomt_status speak(iomt_client *client)
{
    const iomt_config *config = client->config;
    uint32_t silent_ms = config->tick_ms(config->context) - client->sent_tick;
    uint8_t *end = config->buffer + HEADROOM;
    iomt_status status = IOMT_OK;

    if (client->tx_left > 0 || client->state != READY)
        return IOMT_OK;
    if (client->in_flight == 0 && iomt_waiting(client) > 0) {
        status = iomt_log_prepare(&client->log);
        if (status == IOMT_OK)
            status = client->log.outstanding ? send_again(client) : send_new(client);
    }
    if (client->tx_left == 0 && !client->ping_pending && config->keep_alive_s != 0 &&
        silent_ms >= config->keep_alive_s * 500u) { /* at half time */
        client->ping_pending = true;
        if (client->in_flight == 0) /* a PINGRESP is no substitute for a PUBACK */
            client->asked_tick = config->tick_ms(config->context);
        send_packet(client, PINGREQ, end, end);
    }
    return status;
}

void iomt_connected(iomt_client *client)
{
    client->state = CONNECTING;
    client->in_flight = 0;
    client->ping_pending = false;
    client->rx_size = 0;
    client->asked_tick = client->sent_tick =
        client->config->tick_ms(client->config->context);
    send_connect(client);
}

iomt_status iomt_poll(iomt_client *client)
{
    const iomt_config *config = client->config;
    iomt_status status, spoken = IOMT_OK;

    if (client->state == OFFLINE)
        return IOMT_OK;
    status = receive(client);
    if (status == IOMT_OK) {
        spoken = speak(client);
        status = flush(client);
    }
    if (status == IOMT_OK &&
        (client->state == CONNECTING || client->in_flight != 0 || client->ping_pending ||
         client->tx_left > 0) &&
        config->tick_ms(config->context) - client->asked_tick > config->answer_timeout_ms)
        status = IOMT_E_CONNECTION;
    if (status != IOMT_OK) {
        client->state = OFFLINE;
        client->tx_left = 0;
        client->in_flight = 0;
        return status;
    }
    return spoken;
}

uint32_t iomt_backoff_ms(iomt_client *client, uint32_t random)
{
    uint32_t limit_ms = BACKOFF_BASE_MS << client->failures;

    if (client->failures < BACKOFF_DOUBLINGS_MAX)
        client->failures++;
    return random % (limit_ms + 1);
}
