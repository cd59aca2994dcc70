/* text.c: a text put together piece by piece (text.h).
 * SPDX-License-Identifier: Apache-2.0 */
#include "text.h"

#include <stdarg.h>
#include <stdio.h>

void mkv_text_add(mkv_text *text, const char *format, ...)
{
    const size_t used = text->len < text->cap ? text->len : text->cap - 1;
    va_list args;

    va_start(args, format);
    int n = vsnprintf(text->at + used, text->cap - used, format, args);
    va_end(args);
    if (n > 0)
        text->len += (size_t)n;
}

void mkv_text_add_quoted(mkv_text *text, const char *from)
{
    mkv_text_add(text, "\"");
    for (; *from != '\0'; from++)
        mkv_text_add(text, *from == '"' || *from == '\\' ? "\\%c" : "%c",
                     *from >= ' ' && *from <= '~' ? *from : '?');
    mkv_text_add(text, "\"");
}
