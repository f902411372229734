/* What the tests of lanes share: each line of input is a command and its arguments in
 * hexadecimal, each line of output its reply; a machine without the instructions answers "?"
 * to all. */
#ifndef IOMT_TEST_LANE_LINES_H
#define IOMT_TEST_LANE_LINES_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_ARGUMENTS 32
#define MOST_LINE (1 << 17)

struct argument {
    uint8_t *bytes; /* of exactly this size, so that a sanitizer sees a read beyond it */
    size_t size;
};

struct reply {
    uint8_t bytes[2048];
    size_t size;
};

static inline void put(struct reply *reply, const void *bytes, size_t size)
{
    memcpy(reply->bytes + reply->size, bytes, size);
    reply->size += size;
}

/* 0 for a command that it does not know. */
typedef int answer_function(const char *name, const struct argument *arguments, size_t count,
                            struct reply *reply);

static struct argument parse(const char *text)
{
    const size_t size = strcmp(text, "-") == 0 ? 0 : strlen(text) / 2;
    struct argument argument = {malloc(size == 0 ? 1 : size), size};

    if (argument.bytes == NULL)
        exit(2);
    for (size_t i = 0; i < size; i++) {
        unsigned byte;

        if (sscanf(text + 2 * i, "%2x", &byte) != 1)
            exit(2);
        argument.bytes[i] = (uint8_t)byte;
    }
    return argument;
}

static void answer_line(answer_function *answer, char *line)
{
    struct argument arguments[MOST_ARGUMENTS] = {{NULL, 0}};
    struct reply reply = {.size = 0};
    const char *name = strtok(line, " \n");
    size_t count = 0;
    int known;

    for (char *word = strtok(NULL, " \n"); word != NULL; word = strtok(NULL, " \n")) {
        if (count == MOST_ARGUMENTS)
            exit(2);
        arguments[count++] = parse(word);
    }
    known = name != NULL && answer(name, arguments, count, &reply);
    for (size_t i = 0; i < count; i++)
        free(arguments[i].bytes);
    if (!known)
        exit(2);
    for (size_t i = 0; i < reply.size; i++)
        printf("%02x", reply.bytes[i]);
    printf("\n");
}

static int answer_lines(answer_function *answer, int usable)
{
    static char line[MOST_LINE];

    while (fgets(line, sizeof line, stdin) != NULL) {
        if (usable)
            answer_line(answer, line);
        else
            printf("?\n");
    }
    return 0;
}

#endif
