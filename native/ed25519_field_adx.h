/* Numbers modulo p = 2^255 - 19 in four words of 64 bits, for x86-64 with BMI2 and ADX.
 *
 * The same functions as ed25519_field51.h; a file includes one of the two. Every 256-bit
 * number is allowed in products and in all functions but those named _tight: it is computed
 * modulo 2p = 2^256 - 38, so what is carried out of the top comes back times 38. Products
 * and what is unpacked are tight, below 2^255 + 2^11. In assembler, because the two chains of carries
 * (adcx, adox) that make this twice as fast as limbs of 51 bits cannot be said in C. It is
 * straight-line code, the same for all values.
 *
 * Operands are in memory; %[a1] is the second word of a. */
#ifndef IOMT_ED25519_FIELD_ADX_H
#define IOMT_ED25519_FIELD_ADX_H

#include "ed25519.h"

#define IOMT_LIMBS 4

struct iomt_field {
    uint64_t limb[IOMT_LIMBS];
};

/* A number in memory as the operands %[a0] to %[a3] of a piece of assembler. */
#define IOMT_ADX_WORDS(a)                                             \
    [a##0] "m"((a)->limb[0]), [a##1] "m"((a)->limb[1]), [a##2] "m"((a)->limb[2]), \
    [a##3] "m"((a)->limb[3])

/* ---- Sums ---- */

/* A second carry is possible only out of a number that is then below 38. */
static inline void iomt_field_add(struct iomt_field *out, const struct iomt_field *a,
                                  const struct iomt_field *b)
{
    uint64_t r0 = a->limb[0], r1 = a->limb[1], r2 = a->limb[2], r3 = a->limb[3], t;

    __asm__("addq %[b0], %[r0]\n\t"
            "adcq %[b1], %[r1]\n\t"
            "adcq %[b2], %[r2]\n\t"
            "adcq %[b3], %[r3]\n\t"
            "sbbq %[t], %[t]\n\t"
            "andl $38, %k[t]\n\t"
            "addq %[t], %[r0]\n\t"
            "adcq $0, %[r1]\n\t"
            "adcq $0, %[r2]\n\t"
            "adcq $0, %[r3]\n\t"
            "sbbq %[t], %[t]\n\t"
            "andl $38, %k[t]\n\t"
            "addq %[t], %[r0]\n\t"
            : [r0] "+&r"(r0), [r1] "+&r"(r1), [r2] "+&r"(r2), [r3] "+&r"(r3), [t] "=&r"(t)
            : IOMT_ADX_WORDS(b)
            : "cc");
    *out = (struct iomt_field){{r0, r1, r2, r3}};
}

static inline void iomt_field_sub(struct iomt_field *out, const struct iomt_field *a,
                                  const struct iomt_field *b)
{
    uint64_t r0 = a->limb[0], r1 = a->limb[1], r2 = a->limb[2], r3 = a->limb[3], t;

    __asm__("subq %[b0], %[r0]\n\t"
            "sbbq %[b1], %[r1]\n\t"
            "sbbq %[b2], %[r2]\n\t"
            "sbbq %[b3], %[r3]\n\t"
            "sbbq %[t], %[t]\n\t"
            "andl $38, %k[t]\n\t"
            "subq %[t], %[r0]\n\t"
            "sbbq $0, %[r1]\n\t"
            "sbbq $0, %[r2]\n\t"
            "sbbq $0, %[r3]\n\t"
            "sbbq %[t], %[t]\n\t"
            "andl $38, %k[t]\n\t"
            "subq %[t], %[r0]\n\t"
            : [r0] "+&r"(r0), [r1] "+&r"(r1), [r2] "+&r"(r2), [r3] "+&r"(r3), [t] "=&r"(t)
            : IOMT_ADX_WORDS(b)
            : "cc");
    *out = (struct iomt_field){{r0, r1, r2, r3}};
}

/* The sum of two tight numbers: if it is carried out of the top, less than 2^12 is left. */
static inline void iomt_field_add_tight(struct iomt_field *out, const struct iomt_field *a,
                                        const struct iomt_field *b)
{
    uint64_t r0 = a->limb[0], r1 = a->limb[1], r2 = a->limb[2], r3 = a->limb[3], t;

    __asm__("addq %[b0], %[r0]\n\t"
            "adcq %[b1], %[r1]\n\t"
            "adcq %[b2], %[r2]\n\t"
            "adcq %[b3], %[r3]\n\t"
            "sbbq %[t], %[t]\n\t"
            "andl $38, %k[t]\n\t"
            "addq %[t], %[r0]\n\t"
            : [r0] "+&r"(r0), [r1] "+&r"(r1), [r2] "+&r"(r2), [r3] "+&r"(r3), [t] "=&r"(t)
            : IOMT_ADX_WORDS(b)
            : "cc");
    *out = (struct iomt_field){{r0, r1, r2, r3}};
}

/* The difference of two tight numbers: one below zero is at least 2^255 - 2^12 in words, so
 * taking 38 away borrows no second time. */
static inline void iomt_field_sub_tight(struct iomt_field *out, const struct iomt_field *a,
                                        const struct iomt_field *b)
{
    uint64_t r0 = a->limb[0], r1 = a->limb[1], r2 = a->limb[2], r3 = a->limb[3], t;

    __asm__("subq %[b0], %[r0]\n\t"
            "sbbq %[b1], %[r1]\n\t"
            "sbbq %[b2], %[r2]\n\t"
            "sbbq %[b3], %[r3]\n\t"
            "sbbq %[t], %[t]\n\t"
            "andl $38, %k[t]\n\t"
            "subq %[t], %[r0]\n\t"
            "sbbq $0, %[r1]\n\t"
            "sbbq $0, %[r2]\n\t"
            "sbbq $0, %[r3]\n\t"
            : [r0] "+&r"(r0), [r1] "+&r"(r1), [r2] "+&r"(r2), [r3] "+&r"(r3), [t] "=&r"(t)
            : IOMT_ADX_WORDS(b)
            : "cc");
    *out = (struct iomt_field){{r0, r1, r2, r3}};
}

/* ---- Products ---- */

/* One row of the product: r[i .. i + 4] += a_i b, with the top word new. Low halves go along
 * the chain of CF, high halves along that of OF; z is 0. */
#define IOMT_ADX_ROW(at, r0, r1, r2, r3, r4)                          \
    "xorl %k[z], %k[z]\n\t"                                           \
    "movq %[" at "], %%rdx\n\t"                                     \
    "mulxq %[b0], %[t], %[u]\n\t"                                    \
    "adcxq %[t], %[" r0 "]\n\t"                                       \
    "adoxq %[u], %[" r1 "]\n\t"                                       \
    "mulxq %[b1], %[t], %[u]\n\t"                                    \
    "adcxq %[t], %[" r1 "]\n\t"                                       \
    "adoxq %[u], %[" r2 "]\n\t"                                       \
    "mulxq %[b2], %[t], %[u]\n\t"                                   \
    "adcxq %[t], %[" r2 "]\n\t"                                       \
    "adoxq %[u], %[" r3 "]\n\t"                                       \
    "mulxq %[b3], %[t], %[" r4 "]\n\t"                              \
    "adcxq %[t], %[" r3 "]\n\t"                                       \
    "adoxq %[z], %[" r4 "]\n\t"                                       \
    "adcxq %[z], %[" r4 "]\n\t"

/* r[0 .. 4) += 38 r[4 .. 8); what that carries out (u, at most 38) and the top bit are then
 * taken away, and come back times 38 and 19: at most 19 * 77 is added to a number below
 * 2^255. */
#define IOMT_ADX_REDUCE                                               \
    "movl $38, %%edx\n\t"                                             \
    "xorl %k[z], %k[z]\n\t"                                           \
    "mulxq %[r4], %[t], %[u]\n\t"                                     \
    "adcxq %[t], %[r0]\n\t"                                           \
    "adoxq %[u], %[r1]\n\t"                                           \
    "mulxq %[r5], %[t], %[u]\n\t"                                     \
    "adcxq %[t], %[r1]\n\t"                                           \
    "adoxq %[u], %[r2]\n\t"                                           \
    "mulxq %[r6], %[t], %[u]\n\t"                                     \
    "adcxq %[t], %[r2]\n\t"                                           \
    "adoxq %[u], %[r3]\n\t"                                           \
    "mulxq %[r7], %[t], %[u]\n\t"                                     \
    "adcxq %[t], %[r3]\n\t"                                           \
    "adoxq %[z], %[u]\n\t"                                            \
    "adcxq %[z], %[u]\n\t"                                            \
    "movq %[r3], %[t]\n\t"                                            \
    "shrq $63, %[t]\n\t"                                              \
    "btrq $63, %[r3]\n\t"                                             \
    "leaq (%[t],%[u],2), %[u]\n\t"                                    \
    "imulq $19, %[u], %[u]\n\t"                                       \
    "addq %[u], %[r0]\n\t"                                            \
    "adcq %[z], %[r1]\n\t"                                            \
    "adcq %[z], %[r2]\n\t"                                            \
    "adcq %[z], %[r3]\n\t"

static inline void iomt_field_mul(struct iomt_field *out, const struct iomt_field *a,
                                  const struct iomt_field *b)
{
    uint64_t r0, r1, r2, r3, r4, r5, r6, r7, t, u, z;

    __asm__("movq %[a0], %%rdx\n\t"
            "mulxq %[b0], %[r0], %[r1]\n\t"
            "mulxq %[b1], %[t], %[r2]\n\t"
            "addq %[t], %[r1]\n\t"
            "mulxq %[b2], %[t], %[r3]\n\t"
            "adcq %[t], %[r2]\n\t"
            "mulxq %[b3], %[t], %[r4]\n\t"
            "adcq %[t], %[r3]\n\t"
            "adcq $0, %[r4]\n\t"
            IOMT_ADX_ROW("a1", "r1", "r2", "r3", "r4", "r5")
            IOMT_ADX_ROW("a2", "r2", "r3", "r4", "r5", "r6")
            IOMT_ADX_ROW("a3", "r3", "r4", "r5", "r6", "r7")
            IOMT_ADX_REDUCE
            : [r0] "=&r"(r0), [r1] "=&r"(r1), [r2] "=&r"(r2), [r3] "=&r"(r3), [r4] "=&r"(r4),
              [r5] "=&r"(r5), [r6] "=&r"(r6), [r7] "=&r"(r7), [t] "=&r"(t), [u] "=&r"(u),
              [z] "=&r"(z)
            : IOMT_ADX_WORDS(a), IOMT_ADX_WORDS(b)
            : "rdx", "cc");
    *out = (struct iomt_field){{r0, r1, r2, r3}};
}

/* The six products of different words first; they are doubled on the chain of CF while the
 * four squares are added on that of OF. */
static inline void iomt_field_square(struct iomt_field *out, const struct iomt_field *a)
{
    uint64_t r0, r1, r2, r3, r4, r5, r6, r7, t, u, z;

    __asm__("movq %[a0], %%rdx\n\t"
            "mulxq %[a1], %[r1], %[r2]\n\t"
            "mulxq %[a2], %[t], %[r3]\n\t"
            "addq %[t], %[r2]\n\t"
            "mulxq %[a3], %[t], %[r4]\n\t"
            "adcq %[t], %[r3]\n\t"
            "adcq $0, %[r4]\n\t"
            "xorl %k[z], %k[z]\n\t"
            "movq %[a1], %%rdx\n\t"
            "mulxq %[a2], %[t], %[u]\n\t"
            "adcxq %[t], %[r3]\n\t"
            "adoxq %[u], %[r4]\n\t"
            "mulxq %[a3], %[t], %[r5]\n\t"
            "adcxq %[t], %[r4]\n\t"
            "adoxq %[z], %[r5]\n\t"
            "adcxq %[z], %[r5]\n\t"
            "movq %[a2], %%rdx\n\t"
            "mulxq %[a3], %[t], %[r6]\n\t"
            "addq %[t], %[r5]\n\t"
            "adcq $0, %[r6]\n\t"
            "xorl %k[z], %k[z]\n\t"
            "movq %[a0], %%rdx\n\t"
            "mulxq %%rdx, %[r0], %[t]\n\t"
            "adcxq %[r1], %[r1]\n\t"
            "adoxq %[t], %[r1]\n\t"
            "movq %[a1], %%rdx\n\t"
            "mulxq %%rdx, %[t], %[u]\n\t"
            "adcxq %[r2], %[r2]\n\t"
            "adoxq %[t], %[r2]\n\t"
            "adcxq %[r3], %[r3]\n\t"
            "adoxq %[u], %[r3]\n\t"
            "movq %[a2], %%rdx\n\t"
            "mulxq %%rdx, %[t], %[u]\n\t"
            "adcxq %[r4], %[r4]\n\t"
            "adoxq %[t], %[r4]\n\t"
            "adcxq %[r5], %[r5]\n\t"
            "adoxq %[u], %[r5]\n\t"
            "movq %[a3], %%rdx\n\t"
            "mulxq %%rdx, %[t], %[r7]\n\t"
            "adcxq %[r6], %[r6]\n\t"
            "adoxq %[t], %[r6]\n\t"
            "adcxq %[z], %[r7]\n\t"
            "adoxq %[z], %[r7]\n\t"
            IOMT_ADX_REDUCE
            : [r0] "=&r"(r0), [r1] "=&r"(r1), [r2] "=&r"(r2), [r3] "=&r"(r3), [r4] "=&r"(r4),
              [r5] "=&r"(r5), [r6] "=&r"(r6), [r7] "=&r"(r7), [t] "=&r"(t), [u] "=&r"(u),
              [z] "=&r"(z)
            : IOMT_ADX_WORDS(a)
            : "rdx", "cc");
    *out = (struct iomt_field){{r0, r1, r2, r3}};
}

/* ---- Other forms ---- */

static inline void iomt_field_unpack(struct iomt_field *out, const struct iomt_packed *packed)
{
    for (int i = 0; i < IOMT_LIMBS; i++)
        out->limb[i] = packed->words[i];
}

/* a + addend, without what is carried out. */
static inline void iomt_adx_add_small(uint64_t a[IOMT_LIMBS], uint64_t addend)
{
    for (int i = 0; i < IOMT_LIMBS; i++) {
        a[i] += addend;
        addend = a[i] < addend;
    }
}

/* The one number below p. */
static inline void iomt_field_pack(struct iomt_packed *packed, const struct iomt_field *a)
{
    const uint64_t low63 = UINT64_MAX >> 1;
    uint64_t *v = packed->words, plus19[IOMT_LIMBS], top = a->limb[3] >> 63;

    for (int i = 0; i < IOMT_LIMBS; i++)
        v[i] = a->limb[i];
    v[3] &= low63;
    iomt_adx_add_small(v, 19 * top); /* below 2^255 + 19 */

    /* It is at least p exactly if 19 more carry into bit 255. */
    for (int i = 0; i < IOMT_LIMBS; i++)
        plus19[i] = v[i];
    iomt_adx_add_small(plus19, 19);
    iomt_adx_add_small(v, 19 * (plus19[3] >> 63));
    v[3] &= low63;
}

#endif
