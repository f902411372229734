/* Signed digits of a scalar for verification; nothing here is secret. */
#ifndef IOMT_ED25519_DIGITS_H
#define IOMT_ED25519_DIGITS_H

#include "ed25519.h"

#include <string.h>

#define IOMT_DIGITS 256

/* scalar = sum of digits[i] 2^i, for a scalar below 2^255; each digit is 0 or odd and below
 * 2^(bits - 1) in size, and at least bits - 1 zeros follow one that is not 0. */
static inline void iomt_odd_digits(int8_t digits[IOMT_DIGITS], const struct iomt_scalar *scalar,
                                   int bits)
{
    const unsigned whole = 1u << bits;
    unsigned carry = 0;
    int at = 0;

    memset(digits, 0, IOMT_DIGITS);
    while (at < IOMT_DIGITS) {
        const int word = at / 64, shift = at % 64;
        uint64_t window = scalar->words[word] >> shift, odd;
        unsigned digit;

        if (shift > 0 && word < 3)
            window |= scalar->words[word + 1] << (64 - shift);
        odd = carry ? ~window : window; /* a carry runs through ones as none does through zeros */
        if ((odd & 1) == 0) {
            at += odd == 0 ? 64 : __builtin_ctzll(odd);
            continue;
        }
        digit = ((unsigned)window & (whole - 1)) + carry;
        carry = digit > whole / 2;
        digits[at] = (int8_t)((int)digit - (int)(carry ? whole : 0));
        at += bits;
    }
}

#endif
