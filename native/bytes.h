/* Integers in byte buffers of any alignment, on machines of any byte order. Compilers turn
 * each of these into one or two instructions. */
#ifndef IOMT_BYTES_H
#define IOMT_BYTES_H

#include <stdint.h>
#include <string.h>

static inline uint32_t iomt_load_be32(const uint8_t *from)
{
    return (uint32_t)from[0] << 24 | (uint32_t)from[1] << 16 | (uint32_t)from[2] << 8 | from[3];
}

static inline void iomt_store_be32(uint8_t *to, uint32_t word)
{
    to[0] = (uint8_t)(word >> 24);
    to[1] = (uint8_t)(word >> 16);
    to[2] = (uint8_t)(word >> 8);
    to[3] = (uint8_t)word;
}

static inline void iomt_store_be64(uint8_t *to, uint64_t word)
{
    iomt_store_be32(to, (uint32_t)(word >> 32));
    iomt_store_be32(to + 4, (uint32_t)word);
}

/* Item `index` of an array of uint64_t in native byte order. */
static inline uint64_t iomt_load_u64(const void *array, size_t index)
{
    uint64_t item;

    memcpy(&item, (const uint8_t *)array + index * sizeof item, sizeof item);
    return item;
}

/* The same for uint32_t. */
static inline uint32_t iomt_load_u32(const void *array, size_t index)
{
    uint32_t item;

    memcpy(&item, (const uint8_t *)array + index * sizeof item, sizeof item);
    return item;
}

#endif
