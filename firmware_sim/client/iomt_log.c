/* The log in flash: append-only records in a ring of erase blocks. iomt_log.h has the format.
 *
 * Power may fail between any two words, and a word that was being written may then read as
 * anything. So:
 *  - What was half written fails its check and is stepped over. Writing goes on behind the
 *    last byte that is not erased, and one word further: that word may have been begun too.
 *    (A cut in the very first pulse after a start leaves no trace and is not told apart.)
 *  - The last good record may have been cut in its last word and only happen to read well
 *    today. It is written once more before anything is built on it. A block that holds
 *    nothing but its BLOCK record is erased and begun again, for the same reason.
 *  - A block is always erased by the run that writes to it. What an interrupted erase left of
 *    its old content is older than every other block, and is judged by its own checks. */
#include "iomt_log.h"

#define FORMAT_VERSION 1
#define BLOCK_BODY_SIZE 24
#define BUNDLE_BODY_SIZE (16 + IOMT_SIGNATURE_SIZE)
#define SIGNATURE_AT 16
#define CHECK_AT 8
#define SCAN_SIZE 32

uint64_t iomt_get(const uint8_t *from, uint32_t size)
{
    uint64_t value = 0;

    while (size-- > 0)
        value = value << 8 | from[size];
    return value;
}

void iomt_put(uint8_t *to, uint64_t value, uint32_t size)
{
    for (uint32_t i = 0; i < size; i++, value >>= 8)
        to[i] = (uint8_t)value;
}

void iomt_copy(uint8_t *to, const uint8_t *from, uint32_t size)
{
    for (uint32_t i = 0; i < size; i++)
        to[i] = from[i];
}

bool iomt_before(uint32_t a, uint32_t b)
{
    return a - b > UINT32_MAX / 2;
}

/* ---- Records ---- */

static uint32_t crc32(uint32_t crc, const uint8_t *from, uint32_t size)
{
    while (size-- > 0) {
        crc ^= *from++;
        for (int bit = 0; bit < 8; bit++)
            crc = crc & 1 ? crc >> 1 ^ 0xedb88320u : crc >> 1;
    }
    return crc;
}

static uint32_t check_of(iomt_position at, const uint8_t *record, uint32_t body_size)
{
    uint8_t place[8];
    uint32_t crc;

    iomt_put(place, at.number, 4);
    iomt_put(place + 4, at.offset, 4);
    crc = crc32(UINT32_MAX, place, sizeof place);
    crc = crc32(crc, record, CHECK_AT);
    return ~crc32(crc, record + IOMT_RECORD_HEAD_SIZE, body_size);
}

static uint32_t padded(const iomt_log *log, uint32_t size)
{
    return (size + log->flash->word_size - 1) & ~(log->flash->word_size - 1);
}

static uint32_t address_of(const iomt_log *log, iomt_position at)
{
    return at.number % log->flash->block_count * log->flash->block_size + at.offset;
}

/* Whether a whole record stands at `at`. A place that cannot be read holds none. */
static bool read_record(const iomt_log *log, iomt_position at, iomt_record_view *view)
{
    const iomt_flash *flash = log->flash;
    uint8_t *bytes = view->bytes;
    uint32_t address = address_of(log, at), room = flash->block_size - at.offset;

    if (at.offset > flash->block_size || room < IOMT_RECORD_HEAD_SIZE ||
        flash->read(log->context, address, bytes, IOMT_RECORD_HEAD_SIZE) != 0)
        return false;
    view->type = bytes[0];
    if (view->type != IOMT_BLOCK && view->type != IOMT_READING && view->type != IOMT_BUNDLE)
        return false;
    view->at = at;
    view->body_size = bytes[1];
    view->size = padded(log, IOMT_RECORD_HEAD_SIZE + (uint32_t)view->body_size);
    view->argument = (uint16_t)iomt_get(bytes + 2, 2);
    view->number = (uint32_t)iomt_get(bytes + 4, 4);
    view->body = bytes + IOMT_RECORD_HEAD_SIZE;
    if (view->body_size > IOMT_BODY_SIZE_MAX || view->size > room ||
        flash->read(log->context, address + IOMT_RECORD_HEAD_SIZE,
                    bytes + IOMT_RECORD_HEAD_SIZE, view->body_size) != 0)
        return false;
    if (iomt_get(bytes + CHECK_AT, 4) != check_of(at, bytes, view->body_size))
        return false;
    switch (view->type) {
    case IOMT_BLOCK:
        return view->body_size == BLOCK_BODY_SIZE && view->argument == FORMAT_VERSION;
    case IOMT_BUNDLE:
        return view->body_size == BUNDLE_BODY_SIZE;
    default:
        return view->body_size > IOMT_TIME_SIZE;
    }
}

static bool read_block_head(const iomt_log *log, uint32_t number, iomt_record_view *view)
{
    iomt_position at = {number, 0};

    return read_record(log, at, view) && view->type == IOMT_BLOCK && view->number == number;
}

/* The next whole record at or behind `at`, which is moved behind it; false at the end. */
static bool next_record(const iomt_log *log, iomt_position *at, iomt_record_view *view)
{
    while (!iomt_before(log->end.number, at->number)) {
        uint32_t limit =
            at->number == log->end.number ? log->end.offset : log->flash->block_size;

        if (at->offset == 0 && !read_block_head(log, at->number, view))
            at->offset = limit; /* never begun, or being erased: nothing in it counts */
        while (at->offset + IOMT_RECORD_HEAD_SIZE <= limit) {
            if (read_record(log, *at, view)) {
                at->offset += view->size;
                return true;
            }
            at->offset += log->flash->word_size;
        }
        if (at->number == log->end.number)
            return false;
        at->number++;
        at->offset = 0;
    }
    return false;
}

bool iomt_log_next_reading(const iomt_log *log, iomt_position *at, uint32_t number,
                           iomt_record_view *found)
{
    while (next_record(log, at, found))
        if (found->type == IOMT_READING && !iomt_before(found->number, number))
            return true;
    return false;
}

/* ---- Writing ---- */

static bool is_kept(const iomt_log *log, uint32_t address, const uint8_t *bytes, uint32_t size)
{
    uint8_t part[SCAN_SIZE];

    for (uint32_t done = 0; done < size; done += sizeof part) {
        uint32_t length = size - done < sizeof part ? size - done : (uint32_t)sizeof part;

        if (log->flash->read(log->context, address + done, part, length) != 0)
            return false;
        for (uint32_t i = 0; i < length; i++)
            if (part[i] != bytes[done + i])
                return false;
    }
    return true;
}

/* Write a record at the end. Its place is used up even if that fails. */
static iomt_status write_record(iomt_log *log, iomt_record_type type, uint16_t argument,
                                uint32_t number, const uint8_t *body, uint32_t body_size)
{
    uint8_t record[IOMT_RECORD_SIZE_MAX];
    uint32_t size = padded(log, IOMT_RECORD_HEAD_SIZE + body_size);
    uint32_t address = address_of(log, log->end);

    record[0] = (uint8_t)type;
    record[1] = (uint8_t)body_size;
    iomt_put(record + 2, argument, 2);
    iomt_put(record + 4, number, 4);
    iomt_copy(record + IOMT_RECORD_HEAD_SIZE, body, body_size);
    iomt_put(record + CHECK_AT, check_of(log->end, record, body_size), 4);
    for (uint32_t i = IOMT_RECORD_HEAD_SIZE + body_size; i < size; i++)
        record[i] = log->flash->erased;
    log->end.offset += size;
    if (log->flash->write(log->context, address, record, size) != 0 ||
        !is_kept(log, address, record, size))
        return IOMT_E_FLASH;
    return IOMT_OK;
}

/* Before the oldest block is erased: what only it holds is given up. */
static void give_up_oldest(iomt_log *log, uint32_t next)
{
    iomt_record_view head;
    uint32_t kept_from = log->next_reading, oldest = next - log->flash->block_count + 1;

    if (next <= log->flash->block_count)
        return;
    if (log->cursor.number < oldest) {
        log->cursor.number = oldest;
        log->cursor.offset = 0;
    }
    for (uint32_t number = oldest; number < next; number++)
        if (read_block_head(log, number, &head)) {
            kept_from = (uint32_t)iomt_get(head.body + 4, 4);
            break;
        }
    if (iomt_before(log->settled, kept_from))
        iomt_log_give_up(log, kept_from);
}

static iomt_status open_block(iomt_log *log)
{
    iomt_position next = {log->end.number + 1, 0};
    uint8_t body[BLOCK_BODY_SIZE];

    give_up_oldest(log, next.number);
    log->end = next;
    if (log->flash->erase(log->context, address_of(log, next)) != 0) {
        log->end.offset = log->flash->block_size; /* the next attempt takes another block */
        return IOMT_E_FLASH;
    }
    iomt_put(body, log->settled, 4);
    iomt_put(body + 4, log->next_reading, 4);
    iomt_put(body + 8, log->next_sequence, 8);
    iomt_put(body + 16, log->outstanding ? log->bundle_at.number : 0, 4);
    iomt_put(body + 20, log->bundle_at.offset, 4);
    if (write_record(log, IOMT_BLOCK, FORMAT_VERSION, next.number, body, sizeof body) !=
        IOMT_OK) {
        log->end.offset = log->flash->block_size;
        return IOMT_E_FLASH;
    }
    return IOMT_OK;
}

static iomt_status make_room(iomt_log *log, uint32_t body_size)
{
    uint32_t size = padded(log, IOMT_RECORD_HEAD_SIZE + body_size);

    if (log->end.offset + size > log->flash->block_size)
        return open_block(log);
    return IOMT_OK;
}

/* Write the record again that was the last one when power came back. */
static iomt_status refresh(iomt_log *log)
{
    iomt_record_view last;
    iomt_status status;
    iomt_position old = log->refresh;

    if (old.number == 0)
        return IOMT_OK;
    if (!read_record(log, old, &last)) { /* it read well at the start, and no longer */
        log->refresh.number = 0;
        return IOMT_OK;
    }
    status = make_room(log, last.body_size);
    if (status == IOMT_OK) {
        iomt_position copy = log->end;

        status = write_record(log, (iomt_record_type)last.type, last.argument, last.number,
                              last.body, last.body_size);
        if (status == IOMT_OK) {
            if (log->bundle_at.number == old.number && log->bundle_at.offset == old.offset)
                log->bundle_at = copy;
            log->refresh.number = 0;
        }
    }
    return status;
}

iomt_status iomt_log_append_reading(iomt_log *log, uint16_t argument, const uint8_t *body,
                                    uint32_t size)
{
    iomt_status status = refresh(log);

    if (status == IOMT_OK)
        status = make_room(log, size);
    if (status != IOMT_OK)
        return status;
    /* Counted even where it fails: a number that may be in flash is not used again. */
    return write_record(log, IOMT_READING, argument, log->next_reading++, body, size);
}

iomt_status iomt_log_prepare(iomt_log *log)
{
    iomt_status status = refresh(log);

    return status == IOMT_OK ? make_room(log, BUNDLE_BODY_SIZE) : status;
}

iomt_status iomt_log_append_bundle(iomt_log *log, const iomt_bundle *bundle,
                                   const uint8_t signature[IOMT_SIGNATURE_SIZE])
{
    uint8_t body[BUNDLE_BODY_SIZE];
    iomt_status status;
    iomt_position at;

    iomt_put(body, bundle->sequence, 8);
    iomt_put(body + 8, bundle->time_ms, IOMT_TIME_SIZE);
    body[14] = bundle->stream;
    body[15] = bundle->backlog;
    iomt_copy(body + SIGNATURE_AT, signature, IOMT_SIGNATURE_SIZE);
    status = make_room(log, sizeof body);
    if (status != IOMT_OK)
        return status;
    at = log->end;
    log->next_sequence = bundle->sequence + 1; /* even where it fails, as with a reading */
    status = write_record(log, IOMT_BUNDLE, bundle->count, bundle->first, body, sizeof body);
    if (status == IOMT_OK) {
        log->bundle = *bundle;
        log->bundle_at = at;
        log->outstanding = true;
        log->gap = false;
    }
    return status;
}

bool iomt_log_signature(const iomt_log *log, uint8_t signature[IOMT_SIGNATURE_SIZE])
{
    iomt_record_view view;

    if (!read_record(log, log->bundle_at, &view) || view.type != IOMT_BUNDLE)
        return false;
    iomt_copy(signature, view.body + SIGNATURE_AT, IOMT_SIGNATURE_SIZE);
    return true;
}

void iomt_log_settle(iomt_log *log)
{
    log->settled = log->bundle.first + log->bundle.count;
    log->outstanding = false;
}

void iomt_log_give_up(iomt_log *log, uint32_t number)
{
    if (log->outstanding && iomt_before(log->bundle.first, number)) {
        uint32_t end = log->bundle.first + log->bundle.count;

        log->outstanding = false;
        if (iomt_before(number, end))
            number = end; /* they may be delivered: in no other envelope */
    }
    if (iomt_before(log->settled, number)) {
        log->dropped += number - log->settled;
        log->settled = number;
        if (!log->gap) /* one number is enough to show that something is missing */
            log->next_sequence++;
        log->gap = true;
    }
}

/* ---- Power comes back ---- */

static void take_bundle(iomt_log *log, const iomt_record_view *view)
{
    log->bundle.sequence = iomt_get(view->body, 8);
    log->bundle.time_ms = iomt_get(view->body + 8, IOMT_TIME_SIZE);
    log->bundle.first = view->number;
    log->bundle.count = view->argument;
    log->bundle.stream = view->body[14];
    log->bundle.backlog = view->body[15] != 0;
    log->bundle_at = view->at;
    log->outstanding = true;
}

static uint32_t newest_block(const iomt_log *log, iomt_record_view *view)
{
    uint32_t newest = 0;

    for (uint32_t index = 0; index < log->flash->block_count; index++) {
        uint8_t number[4];
        uint32_t found;

        if (log->flash->read(log->context, index * log->flash->block_size + 4, number, 4) != 0)
            continue;
        found = (uint32_t)iomt_get(number, 4);
        if (found > newest && found % log->flash->block_count == index &&
            read_block_head(log, found, view))
            newest = found;
    }
    return newest;
}

/* Where to write in the newest block, whose last good record ends at `from`: behind what is
 * not erased, and behind all of the record that was begun there, which may hold words that
 * were written and look erased. */
static uint32_t free_from(const iomt_log *log, uint32_t from)
{
    const iomt_flash *flash = log->flash;
    iomt_position block = {log->end.number, 0};
    uint32_t base = address_of(log, block), last = from, first = 0;
    uint8_t part[SCAN_SIZE];

    for (uint32_t at = from; at < flash->block_size; at += sizeof part) {
        uint32_t left = flash->block_size - at;
        uint32_t length = left < sizeof part ? left : (uint32_t)sizeof part;
        bool readable = flash->read(log->context, base + at, part, length) == 0;

        for (uint32_t i = 0; i < length; i++)
            if (!readable || part[i] != flash->erased) {
                last = at + i + 1;
                if (first == 0)
                    first = at + i;
            }
    }
    if (first != 0 && first + 2 <= flash->block_size &&
        flash->read(log->context, base + first, part, 2) == 0 && part[1] != flash->erased &&
        first + IOMT_RECORD_HEAD_SIZE + part[1] > last)
        last = first + IOMT_RECORD_HEAD_SIZE + part[1];
    last = padded(log, last) + flash->word_size;
    return last < flash->block_size ? last : flash->block_size;
}

static uint32_t oldest_block(const iomt_log *log)
{
    if (log->end.number < log->flash->block_count)
        return 1;
    return log->end.number - log->flash->block_count + 1;
}

/* The block that reading number `settled` lies in or comes after. */
static uint32_t block_to_read_from(const iomt_log *log, iomt_record_view *view)
{
    uint32_t oldest = oldest_block(log);

    for (uint32_t number = log->end.number; number > oldest; number--)
        if (read_block_head(log, number, view) &&
            !iomt_before(log->settled, (uint32_t)iomt_get(view->body + 4, 4)))
            return number;
    return oldest;
}

/* The bundle that the newest block's head names at `at`. Where its record fell to a second
 * power cut there may be another one: the record that this was a copy of. If there is none,
 * it was never whole, so it was never sent. */
static void find_bundle(iomt_log *log, iomt_position at, iomt_record_view *view)
{
    if (read_record(log, at, view) && view->type == IOMT_BUNDLE) {
        take_bundle(log, view);
        return;
    }
    at.number = oldest_block(log);
    at.offset = 0;
    while (next_record(log, &at, view))
        if (view->type == IOMT_BUNDLE && view->number == log->settled)
            take_bundle(log, view);
}

void iomt_log_open(iomt_log *log, const iomt_flash *flash, void *context,
                   uint64_t first_sequence)
{
    static const iomt_log nothing;
    iomt_record_view view;
    iomt_position at = {0, 0}, last = {0, 0};
    uint32_t newest, bundled, used = 0;

    *log = nothing;
    log->flash = flash;
    log->context = context;
    log->next_sequence = first_sequence;
    log->end.offset = flash->block_size; /* of block 0, which does not exist: it is full */
    newest = newest_block(log, &view);
    if (newest == 0 || !read_block_head(log, newest, &view))
        return;
    log->settled = (uint32_t)iomt_get(view.body, 4);
    log->next_reading = (uint32_t)iomt_get(view.body + 4, 4);
    log->next_sequence = iomt_get(view.body + 8, 8);
    log->end.number = newest;
    at.number = (uint32_t)iomt_get(view.body + 16, 4);
    at.offset = (uint32_t)iomt_get(view.body + 20, 4);
    if (at.number != 0)
        find_bundle(log, at, &view);
    at.number = newest;
    at.offset = 0;
    while (next_record(log, &at, &view)) {
        if (view.type == IOMT_READING) {
            if (!iomt_before(view.number, log->next_reading))
                log->next_reading = view.number + 1;
        } else if (view.type == IOMT_BUNDLE) {
            take_bundle(log, &view);
            log->settled = view.number;
            log->next_sequence = log->bundle.sequence + 1;
        }
        last = view.at;
        used = at.offset;
    }
    bundled = log->bundle.first + log->bundle.count;
    if (log->outstanding && iomt_before(log->next_reading, bundled))
        log->next_reading = bundled; /* its last reading is spoilt: no other is taken for it */
    if (last.offset == 0) { /* nothing but its BLOCK record: it is begun again */
        log->end.number--;
    } else {
        log->refresh = last;
        log->end.offset = free_from(log, used);
    }
    log->cursor.number = block_to_read_from(log, &view);
}
