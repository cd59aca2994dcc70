/* test_breaker.c: when a server counts as down, when it is tried again, and for how long
 * the next in order is asked for what it lacks.  Time is made up.
 * SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "check.h"
#include "client/breaker.h"
#include "net/clock.h"
#include "status.h"

#define MS MKV_NS_PER_MS
#define START (INT64_C(5000000) * MS)
#define OLD_MS 86400000u /* a server that has run for a day */

static memkv_error refused(int status)
{
    memkv_error why;
    mkv_fail(&why, status, 0, "connection refused");
    return why;
}

static void a_new_server_is_live_and_may_be_dialled(void)
{
    mkv_breaker breaker = {0};
    CHECK(mkv_breaker_is_live(&breaker));
    CHECK(mkv_breaker_may_dial(&breaker, START));
    CHECK(!mkv_breaker_is_back(&breaker, START));
}

static void a_failure_opens_it_until_the_back_off_is_over(void)
{
    mkv_breaker breaker = {0};
    memkv_error why = refused(MEMKV_ERR_UNREACHABLE);
    mkv_breaker_failed(&breaker, START, &why, 0);
    CHECK(!mkv_breaker_is_live(&breaker));
    CHECK(!mkv_breaker_may_dial(&breaker, START + 99 * MS));
    CHECK(mkv_breaker_may_dial(&breaker, START + 100 * MS));
    CHECK(strcmp(breaker.trouble.text, "connection refused") == 0);
}

static void the_back_off_doubles_up_to_its_bound_and_jitters(void)
{
    mkv_breaker breaker = {0};
    memkv_error why = refused(MEMKV_ERR_UNREACHABLE);
    for (int i = 0; i < 20; i++)
        mkv_breaker_failed(&breaker, START, &why, 0);
    CHECK(!mkv_breaker_may_dial(&breaker, START + 4999 * MS));
    CHECK(mkv_breaker_may_dial(&breaker, START + 5000 * MS));
    mkv_breaker_failed(&breaker, START, &why, UINT16_MAX);
    CHECK(!mkv_breaker_may_dial(&breaker, START + 7499 * MS));
    CHECK(mkv_breaker_may_dial(&breaker, START + 7500 * MS));
}

static void a_handshake_does_not_shorten_the_back_off_but_an_answer_does(void)
{
    mkv_breaker breaker = {0};
    memkv_error why = refused(MEMKV_ERR_UNREACHABLE);
    mkv_breaker_failed(&breaker, START, &why, 0);
    mkv_breaker_opened(&breaker, START, OLD_MS);
    mkv_breaker_failed(&breaker, START, &why, 0);
    CHECK(!mkv_breaker_may_dial(&breaker, START + 199 * MS));
    mkv_breaker_opened(&breaker, START, OLD_MS);
    CHECK(!mkv_breaker_answered(&breaker, START, MS, 0));
    mkv_breaker_failed(&breaker, START, &why, 0);
    CHECK(mkv_breaker_may_dial(&breaker, START + 100 * MS));
}

static void a_wrong_key_is_rarely_tried_again(void)
{
    mkv_breaker breaker = {0};
    memkv_error why = refused(MEMKV_ERR_AUTH);
    mkv_breaker_failed(&breaker, START, &why, 0);
    CHECK(!mkv_breaker_may_dial(&breaker, START + 29999 * MS));
    CHECK(mkv_breaker_may_dial(&breaker, START + 30000 * MS));
}

static void three_silences_in_a_row_open_it(void)
{
    mkv_breaker breaker = {0};
    mkv_breaker_opened(&breaker, START, OLD_MS);
    CHECK(!mkv_breaker_silent(&breaker, START, 50 * MS, 0));
    CHECK(!mkv_breaker_silent(&breaker, START, 50 * MS, 0));
    CHECK(!mkv_breaker_answered(&breaker, START, MS, 0)); /* it lives: counts anew */
    CHECK(!mkv_breaker_silent(&breaker, START, 50 * MS, 0));
    CHECK(!mkv_breaker_silent(&breaker, START, 50 * MS, 0));
    CHECK(mkv_breaker_silent(&breaker, START, 50 * MS, 0));
    CHECK(!mkv_breaker_is_live(&breaker));
}

static void a_long_silence_opens_it_at_once(void)
{
    mkv_breaker breaker = {0};
    mkv_breaker_opened(&breaker, START, OLD_MS);
    CHECK(mkv_breaker_silent(&breaker, START, 1000 * MS, 0));
}

static void very_short_silences_open_it_once_they_add_up(void)
{
    mkv_breaker breaker = {0};
    mkv_breaker_opened(&breaker, START, OLD_MS);
    for (int i = 0; i < 11; i++)
        CHECK(!mkv_breaker_silent(&breaker, START, 5 * MS, 0));
    CHECK(mkv_breaker_silent(&breaker, START, 5 * MS, 0));
}

static void a_late_answer_does_not_shorten_the_back_off(void)
{
    mkv_breaker breaker = {0};
    memkv_error why = refused(MEMKV_ERR_DRAINING);
    mkv_breaker_opened(&breaker, START, OLD_MS);
    mkv_breaker_failed(&breaker, START, &why, 0);
    CHECK(!mkv_breaker_answered(&breaker, START, MS, 0));
    mkv_breaker_failed(&breaker, START, &why, 0);
    CHECK(!mkv_breaker_may_dial(&breaker, START + 199 * MS));
    CHECK(mkv_breaker_may_dial(&breaker, START + 200 * MS));
}

static void a_server_that_was_never_up_is_not_silent(void)
{
    mkv_breaker breaker = {0};
    for (int i = 0; i < 100; i++)
        CHECK(!mkv_breaker_silent(&breaker, START, 1000 * MS, 0));
    CHECK(mkv_breaker_is_live(&breaker));
}

static void answers_far_slower_than_normal_open_it(void)
{
    mkv_breaker breaker = {0};
    mkv_breaker_opened(&breaker, START, OLD_MS);
    for (int i = 0; i < 100; i++)
        CHECK(!mkv_breaker_answered(&breaker, START, MS / 4, 0));
    for (int i = 0; i < 15; i++)
        CHECK(!mkv_breaker_answered(&breaker, START, 40 * MS, 0));
    CHECK(mkv_breaker_answered(&breaker, START, 40 * MS, 0));
    CHECK(!mkv_breaker_is_live(&breaker));
}

static void a_server_that_is_always_slow_stays_live(void)
{
    mkv_breaker breaker = {0};
    mkv_breaker_opened(&breaker, START, OLD_MS);
    for (int i = 0; i < 1000; i++)
        CHECK(!mkv_breaker_answered(&breaker, START, 40 * MS, 0));
    CHECK(mkv_breaker_is_live(&breaker));
}

static void a_server_that_came_back_is_doubted_for_ten_minutes(void)
{
    mkv_breaker breaker = {0};
    memkv_error why = refused(MEMKV_ERR_UNREACHABLE);
    mkv_breaker_opened(&breaker, START, OLD_MS);
    CHECK(!mkv_breaker_is_back(&breaker, START));
    mkv_breaker_failed(&breaker, START, &why, 0);
    mkv_breaker_opened(&breaker, START, OLD_MS);
    CHECK(mkv_breaker_is_back(&breaker, START + 599999 * MS));
    CHECK(!mkv_breaker_is_back(&breaker, START + 600000 * MS));
}

static void so_is_one_that_was_started_just_now(void)
{
    mkv_breaker breaker = {0};
    mkv_breaker_opened(&breaker, START, 400000);
    CHECK(mkv_breaker_is_back(&breaker, START + 199999 * MS));
    CHECK(!mkv_breaker_is_back(&breaker, START + 200000 * MS));
}

int main(void)
{
    a_new_server_is_live_and_may_be_dialled();
    a_failure_opens_it_until_the_back_off_is_over();
    the_back_off_doubles_up_to_its_bound_and_jitters();
    a_handshake_does_not_shorten_the_back_off_but_an_answer_does();
    a_wrong_key_is_rarely_tried_again();
    three_silences_in_a_row_open_it();
    a_long_silence_opens_it_at_once();
    very_short_silences_open_it_once_they_add_up();
    a_late_answer_does_not_shorten_the_back_off();
    a_server_that_was_never_up_is_not_silent();
    answers_far_slower_than_normal_open_it();
    a_server_that_is_always_slow_stays_live();
    a_server_that_came_back_is_doubted_for_ten_minutes();
    so_is_one_that_was_started_just_now();
    return 0;
}
