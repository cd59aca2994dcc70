/* text.h: a text put together piece by piece in memory of the caller's, JSON where that is
 * wanted.  Allocates nothing, knows no other part.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef MKV_TEXT_H
#define MKV_TEXT_H

#include <stddef.h>

typedef struct mkv_text {
    char *at;   /* terminated once something was added */
    size_t cap; /* 1 or more */
    size_t len; /* of all that was added: from cap on, the text is cut short */
} mkv_text;

__attribute__((format(printf, 2, 3))) void mkv_text_add(mkv_text *text,
                                                        const char *format, ...);
/* A JSON string with its quotes.  What is no printable ASCII becomes a question mark. */
void mkv_text_add_quoted(mkv_text *text, const char *from);

#endif
