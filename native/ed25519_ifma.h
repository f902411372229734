/* What the files of the eight lanes share; no vector type, so any file may include it. */
#ifndef IOMT_ED25519_IFMA_H
#define IOMT_ED25519_IFMA_H

#include "ed25519.h"

#define IOMT_BASE_ROW 128

/* [i][j] = [(j + 1) 2^(64 i)] B (ed25519_ifma_tables.c) */
extern const struct iomt_packed_point iomt_base_rows[IOMT_BASE_PARTS][IOMT_BASE_ROW];

#endif
