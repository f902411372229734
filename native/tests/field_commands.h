/* The field's functions as commands of test_ed25519.c; compiled for each field. Numbers come
 * and go as limbs, so a test can stand on their bounds. */
#include "commands.h"

#include <string.h>

static int limbs(const struct argument *argument, struct iomt_field *out)
{
    if (argument->size != 8 * IOMT_LIMBS)
        return 0;
    for (int i = 0; i < IOMT_LIMBS; i++)
        out->limb[i] = iomt_load_le64(argument->bytes + 8 * i);
    return 1;
}

static size_t reply_limbs(uint8_t *reply, const struct iomt_field *a)
{
    for (int i = 0; i < IOMT_LIMBS; i++)
        iomt_store_le64(reply + 8 * i, a->limb[i]);
    return 8 * IOMT_LIMBS;
}

static size_t field_command(const char *name, const struct argument *arguments, size_t count,
                            uint8_t *reply)
{
    struct iomt_field a, b, out;
    struct iomt_packed packed;

    if (count == 1 && strcmp(name, "unpack") == 0 && arguments[0].size == 32) {
        for (int i = 0; i < 4; i++)
            packed.words[i] = iomt_load_le64(arguments[0].bytes + 8 * i);
        iomt_field_unpack(&out, &packed);
        return reply_limbs(reply, &out);
    }
    if (count < 1 || !limbs(&arguments[0], &a))
        return 0;
    if (count == 1 && strcmp(name, "pack") == 0) {
        iomt_field_pack(&packed, &a);
        for (int i = 0; i < 4; i++)
            iomt_store_le64(reply + 8 * i, packed.words[i]);
        return 32;
    }
    if (count == 1 && strcmp(name, "square") == 0) {
        iomt_field_square(&out, &a);
        return reply_limbs(reply, &out);
    }
    if (count != 2 || !limbs(&arguments[1], &b))
        return 0;
    if (strcmp(name, "mul") == 0)
        iomt_field_mul(&out, &a, &b);
    else if (strcmp(name, "add") == 0)
        iomt_field_add(&out, &a, &b);
    else if (strcmp(name, "sub") == 0)
        iomt_field_sub(&out, &a, &b);
    else if (strcmp(name, "add-tight") == 0)
        iomt_field_add_tight(&out, &a, &b);
    else if (strcmp(name, "sub-tight") == 0)
        iomt_field_sub_tight(&out, &a, &b);
    else
        return 0;
    return reply_limbs(reply, &out);
}
