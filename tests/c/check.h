/* check.h: what a C test needs.  A test is a program that returns 0; the first claim that
 * does not hold ends it with the place and the values.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef MKV_CHECK_H
#define MKV_CHECK_H

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define CHECK(claim)                                                                   \
    do {                                                                               \
        if (!(claim)) {                                                                \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #claim);        \
            exit(1);                                                                   \
        }                                                                              \
    } while (0)

/* Two integers of any type. */
#define CHECK_EQ(got, wanted)                                                          \
    do {                                                                               \
        int64_t got_ = (int64_t)(got), wanted_ = (int64_t)(wanted);                    \
        if (got_ != wanted_) {                                                         \
            fprintf(stderr, "%s:%d: %s is %" PRId64 ", not %" PRId64 "\n", __FILE__,   \
                    __LINE__, #got, got_, wanted_);                                    \
            exit(1);                                                                   \
        }                                                                              \
    } while (0)

#endif
