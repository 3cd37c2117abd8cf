/* The three things that drawing a token on a CPU consists of, for rows of bfloat16: an RMS norm, attention of one
 * query a row over the keys of its slot, and products of few rows with a matrix.
 *
 * What a function gives a row does not depend on the rows beside it, to the bit.
 * `native.py` compiles and calls this, with WIDTH numbers a head and GROUP query heads that share keys, and says what
 * the arguments are. Leaves out other types, and prompts' attention.
 */
#ifndef __AVX512BF16__
#error "these are for a processor that multiplies vectors of bfloat16"
#endif
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define LANES 16
#define VECTORS (WIDTH / LANES)
#define BLOCK 64                                         /* keys whose scores are held at a time */
#define TOGETHER (GROUP * VECTORS <= 28 ? GROUP : 1)     /* heads whose results fit into registers */
#define INLINE static inline __attribute__((always_inline))

typedef uint16_t bf16;
typedef float floats __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t words __attribute__((vector_size(4 * LANES)));
typedef uint16_t halves __attribute__((vector_size(2 * LANES)));

INLINE floats all(float x) { return x - (floats){0}; }

INLINE floats load(const bf16 *from) {
    halves bits;
    memcpy(&bits, from, sizeof bits);
    return (floats)(__builtin_convertvector(bits, words) << 16);
}

INLINE floats load_floats(const float *from) {
    floats found;
    memcpy(&found, from, sizeof found);
    return found;
}

INLINE floats pick(ints which, floats one, floats other) {
    return (floats)((which & (ints)one) | (~which & (ints)other));
}

/* To the nearest, ties to even; not a number stays one. */
INLINE void store(bf16 *to, floats x) {
    words bits = (words)x, up = ((bits + 0x7fff) + ((bits >> 16) & 1)) >> 16;
    halves rounded = __builtin_convertvector((words)pick(x != x, (floats)(up * 0 + 0x7fc0), (floats)up), halves);
    memcpy(to, &rounded, sizeof rounded);
}

INLINE floats larger(floats one, floats other) { return pick(one > other, one, other); }

INLINE float sum(floats x) {
    x += __builtin_shuffle(x, (ints){8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7});
    x += __builtin_shuffle(x, (ints){4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11});
    x += __builtin_shuffle(x, (ints){2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13});
    x += __builtin_shuffle(x, (ints){1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14});
    return x[0];
}

/* The sums of sixteen vectors, in as many steps as four single ones would take. */
INLINE floats sums(const floats x[LANES]) {
    floats eight[8], four[4], two[2];
    for (int i = 0; i < 8; i++)
        eight[i] = __builtin_shuffle(x[2 * i], x[2 * i + 1],
                                     (ints){0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23}) +
                   __builtin_shuffle(x[2 * i], x[2 * i + 1],
                                     (ints){8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31});
    for (int i = 0; i < 4; i++)
        four[i] = __builtin_shuffle(eight[2 * i], eight[2 * i + 1],
                                    (ints){0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27}) +
                  __builtin_shuffle(eight[2 * i], eight[2 * i + 1],
                                    (ints){4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31});
    for (int i = 0; i < 2; i++)
        two[i] = __builtin_shuffle(four[2 * i], four[2 * i + 1],
                                   (ints){0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29}) +
                 __builtin_shuffle(four[2 * i], four[2 * i + 1],
                                   (ints){2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31});
    return __builtin_shuffle(two[0], two[1], (ints){0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30}) +
           __builtin_shuffle(two[0], two[1], (ints){1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31});
}

INLINE float largest(floats x) {
    x = larger(x, __builtin_shuffle(x, (ints){8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7}));
    x = larger(x, __builtin_shuffle(x, (ints){4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11}));
    x = larger(x, __builtin_shuffle(x, (ints){2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13}));
    x = larger(x, __builtin_shuffle(x, (ints){1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14}));
    return x[0];
}

/* e^x for x <= 88, to two units in the last place; e^-87 for all that is below. */
INLINE floats exponential(floats x) {
    x = pick(x < all(-87.0f), all(-87.0f), x);
    floats twos = x * 1.44269504f, whole = (twos + 12582912.0f) - 12582912.0f;
    floats rest = (x - whole * 0.693145752f) - whole * 1.42860677e-6f;
    floats found = all(1.0f / 720);
    found = found * rest + 1.0f / 120;
    found = found * rest + 1.0f / 24;
    found = found * rest + 1.0f / 6;
    found = found * rest + 0.5f;
    found = found * rest + 1.0f;
    found = found * rest + 1.0f;
    return found * (floats)((__builtin_convertvector(whole, ints) + 127) << 23);
}

/* ------------------------------------------------------------------------------------------------------- RMS norm */

/* x [rows, width] -> y: every row over the root of its mean square, times weight. */
void norm(const bf16 *x, const float *weight, float epsilon, bf16 *y, int rows, int width, int threads) {
#pragma omp parallel for num_threads(threads) if (rows > 1)
    for (int row = 0; row < rows; row++) {
        const bf16 *from = x + (int64_t)row * width;
        bf16 *to = y + (int64_t)row * width;
        floats squares = {0};
        for (int i = 0; i < width; i += LANES) squares += load(from + i) * load(from + i);
        float scale = 1.0f / sqrtf(sum(squares) / width + epsilon);
        for (int i = 0; i < width; i += LANES) store(to + i, load(from + i) * scale * load_floats(weight + i));
    }
}

/* ------------------------------------------------------------------------------------------------------- attention */

/* Keys and values of a layer: [slots, heads, capacity, WIDTH], with the distances between slots and between heads. */
struct cache {
    bf16 *keys, *values;
    int64_t slot, head;
};

/* One token for each of the first `rows` slots. Row i has `before[i]` keys in slot `trunk[i]` of `shared`, then
 * `places[i]` in its own, where the token's key goes behind them. */
struct step {
    const float *cosine, *sine; /* [rows, WIDTH], the first half of the sines negated */
    const int64_t *places, *before, *trunk, *order;
    int32_t rows, heads, threads;
};

struct layer {
    struct cache own, shared;
    const float *query_norm, *key_norm; /* [WIDTH] or NULL */
    float epsilon, scale;
    int64_t window; /* 0: none */
};

struct softmax {
    floats found[GROUP][VECTORS];
    float top[GROUP], total[GROUP];
};

/* A head of WIDTH numbers, normed if it has a norm, turned by its position. */
INLINE void turned(const bf16 *from, const float *weight, float epsilon, const float *cosine, const float *sine,
                   float scale, bf16 *to) {
    float x[WIDTH], y[WIDTH];
    for (int i = 0; i < WIDTH; i += LANES) {
        floats part = load(from + i);
        memcpy(x + i, &part, sizeof part);
    }
    if (weight) {
        floats squares = {0};
        for (int i = 0; i < WIDTH; i += LANES) squares += load_floats(x + i) * load_floats(x + i);
        float factor = 1.0f / sqrtf(sum(squares) / WIDTH + epsilon);
        for (int i = 0; i < WIDTH; i++) x[i] *= factor * weight[i];
    }
    for (int i = 0; i < WIDTH / 2; i++) {
        y[i] = (x[i] * cosine[i] + x[i + WIDTH / 2] * sine[i]) * scale;
        y[i + WIDTH / 2] = (x[i + WIDTH / 2] * cosine[i + WIDTH / 2] + x[i] * sine[i + WIDTH / 2]) * scale;
    }
    for (int i = 0; i < WIDTH; i += LANES) store(to + i, load_floats(y + i));
}

INLINE void fetch(const bf16 *head) {
    for (int i = 0; i < WIDTH; i += 64 / sizeof(bf16)) __builtin_prefetch(head + i);
}

/* A key's product with a query, before its lanes are added up. */
#if WIDTH % 32 == 0
#define PARTS (WIDTH / 32)
typedef __m512bh part;
INLINE part part_of(const bf16 *from) { return (part)_mm512_loadu_si512(from); }
INLINE floats times(const part *one, const part *other) {
    __m512 found = _mm512_dpbf16_ps(_mm512_setzero_ps(), one[0], other[0]);
    for (int i = 1; i < PARTS; i++) found = _mm512_dpbf16_ps(found, one[i], other[i]);
    return (floats)found;
}
#else
#define PARTS VECTORS
typedef floats part;
INLINE part part_of(const bf16 *from) { return load(from); }
INLINE floats times(const part *one, const part *other) {
    floats found = one[0] * other[0];
    for (int i = 1; i < PARTS; i++) found += one[i] * other[i];
    return found;
}
#endif

/* Add what a group of heads reads of `count` keys: a softmax that is not divided by its total yet. Memory is slower
 * than this, so values are fetched while their keys are used, then the next keys; `next` are those after all. */
INLINE void read(const bf16 *keys, const bf16 *values, int64_t count, const bf16 *next,
                 part query[GROUP][PARTS], struct softmax *so) {
    float score[GROUP][BLOCK];
    for (int64_t first = 0; first < count; first += BLOCK, keys += BLOCK * WIDTH, values += BLOCK * WIDTH) {
        int many = count - first < BLOCK ? (int)(count - first) : BLOCK;
        int padded = (many + LANES - 1) / LANES * LANES;
        const bf16 *coming = first + BLOCK < count ? keys + BLOCK * WIDTH : next;
        for (int t = 0; t < padded; t += LANES) {
            floats products[GROUP][LANES];
            for (int i = 0; i < LANES; i++) {
                part key[PARTS];
                int at = t + i < many ? t + i : many - 1; /* the last one again: its score is not used */
                for (int v = 0; v < PARTS; v++) key[v] = part_of(keys + at * WIDTH + v * (WIDTH / PARTS));
                fetch(values + at * WIDTH);
                for (int g = 0; g < GROUP; g++) products[g][i] = times(query[g], key);
            }
            for (int g = 0; g < GROUP; g++) {
                floats found = sums(products[g]);
                memcpy(score[g] + t, &found, sizeof found);
            }
        }
        for (int g = 0; g < GROUP; g++) {
            for (int t = many; t < padded; t++) score[g][t] = -INFINITY;
            floats top = load_floats(score[g]), total = {0};
            for (int t = LANES; t < padded; t += LANES) top = larger(top, load_floats(score[g] + t));
            float new = largest(top), high = so->top[g] > new ? so->top[g] : new;
            for (int t = 0; t < padded; t += LANES) {
                floats weight = exponential(load_floats(score[g] + t) - high);
                memcpy(score[g] + t, &weight, sizeof weight);
                total += weight;
            }
            float less = exponential(all(so->top[g] - high))[0];
            so->total[g] = so->total[g] * less + sum(total);
            so->top[g] = high;
            for (int v = 0; v < VECTORS; v++) so->found[g][v] *= less;
        }
        for (int g = 0; g < GROUP; g += TOGETHER) {
            floats found[TOGETHER][VECTORS];
            memcpy(found, so->found[g], sizeof found);
            for (int t = 0; t < many; t++) {
                if (g == 0) fetch(coming + t * WIDTH);
                for (int v = 0; v < VECTORS; v++) {
                    floats value = load(values + t * WIDTH + v * LANES);
                    for (int h = 0; h < TOGETHER; h++) found[h][v] += value * score[g + h][t];
                }
            }
            memcpy(so->found[g], found, sizeof found);
        }
    }
}

/* A row's heads that share keys: write the new key and value, and attend. */
static void attend_group(const struct step *step, const struct layer *layer, const bf16 *qkv, bf16 *out, int row,
                         int head, const bf16 *next) {
    const float *cosine = step->cosine + (int64_t)row * WIDTH, *sine = step->sine + (int64_t)row * WIDTH;
    const bf16 *mine = qkv + (int64_t)row * step->heads * (GROUP + 2) * WIDTH;
    int64_t place = step->places[row], before = step->before ? step->before[row] : 0, first = 0;
    bf16 *keys = layer->own.keys + row * layer->own.slot + head * layer->own.head;
    bf16 *values = layer->own.values + row * layer->own.slot + head * layer->own.head;
    part query[GROUP][PARTS];
    for (int g = 0; g < GROUP; g++) {
        bf16 x[WIDTH];
        turned(mine + (head * GROUP + g) * WIDTH, layer->query_norm, layer->epsilon, cosine, sine, layer->scale, x);
        for (int v = 0; v < PARTS; v++) query[g][v] = part_of(x + v * (WIDTH / PARTS));
    }
    turned(mine + (step->heads * GROUP + head) * WIDTH, layer->key_norm, layer->epsilon, cosine, sine, 1.0f,
           keys + place * WIDTH);
    memcpy(values + place * WIDTH, mine + (step->heads * (GROUP + 1) + head) * WIDTH, WIDTH * sizeof(bf16));

    struct softmax so = {0};
    for (int g = 0; g < GROUP; g++) so.top[g] = -INFINITY;
    if (layer->window && before + place + 1 > layer->window) first = before + place + 1 - layer->window;
    if (first < before) {
        int64_t at = step->trunk[row] * layer->shared.slot + head * layer->shared.head + first * WIDTH;
        read(layer->shared.keys + at, layer->shared.values + at, before - first, keys, query, &so);
    }
    first = first > before ? first - before : 0;
    read(keys + first * WIDTH, values + first * WIDTH, place + 1 - first, next, query, &so);
    bf16 *to = out + ((int64_t)row * step->heads + head) * GROUP * WIDTH;
    for (int g = 0; g < GROUP; g++)
        for (int v = 0; v < VECTORS; v++) store(to + g * WIDTH + v * LANES, so.found[g][v] / so.total[g]);
}

INLINE int row_of(const struct step *step, int i) {
    return step->order ? (int)step->order[i % step->rows] : i % step->rows;
}

/* qkv [rows, heads * (GROUP + 2) * WIDTH]: queries, keys, values -> out [rows, heads * GROUP * WIDTH]. */
void attend(const struct step *step, const struct layer *layer, const bf16 *qkv, bf16 *out) {
    int many = step->rows * step->heads;
#pragma omp parallel for num_threads(step->threads) if (many > 1)
    for (int i = 0; i < many; i++) {
        int next = i + 1 < many ? i + 1 : i;
        attend_group(step, layer, qkv, out, row_of(step, i), i / step->rows,
                     layer->own.keys + row_of(step, next) * layer->own.slot + next / step->rows * layer->own.head);
    }
}

/* -------------------------------------------------------------------------------------------------------- products */

#define COLUMNS 32 /* of a block */
#define ROWS 8     /* of a tile */
enum { PLAIN, FLOATS, PLUS, GATED };

INLINE floats silu(floats x) { return x / (1.0f + exponential(pick(-x > all(88.0f), all(88.0f), -x))); }

/* What `product` is given. */
struct task {
    const bf16 *x, *weight, *other;
    const float *bias;
    void *y;
    int32_t kind, rows, depth, blocks, width;
};

/* Rows first..first + rows times a block of columns, which lies in pairs of numbers: [depth / 2, COLUMNS, 2].
 * Meanwhile the `coming` bytes from `next` on are fetched for every pair: so the matrix is read once, and nobody waits
 * for it. */
INLINE void tile(const int rows, const int kind, const struct task *task, int first, int block, const char *next,
                 int64_t coming) {
    const int64_t depth = task->depth;
    const bf16 *x = task->x + first * depth, *weight = task->weight + block * depth * COLUMNS;
    __m512 sums[ROWS][2];
    for (int r = 0; r < rows; r++)
        for (int h = 0; h < 2; h++)
            sums[r][h] = task->bias ? _mm512_loadu_ps(task->bias + block * COLUMNS + LANES * h) : _mm512_setzero_ps();
    for (int64_t k = 0; k < depth / 2; k++, weight += 2 * COLUMNS) {
        __m512bh low = (__m512bh)_mm512_loadu_si512(weight), high = (__m512bh)_mm512_loadu_si512(weight + COLUMNS);
        for (int64_t at = k * coming; at < (k + 1) * coming; at += 64) __builtin_prefetch(next + at);
        for (int r = 0; r < rows; r++) {
            int32_t pair;
            memcpy(&pair, x + r * depth + 2 * k, sizeof pair);
            __m512bh both = (__m512bh)_mm512_set1_epi32(pair);
            sums[r][0] = _mm512_dpbf16_ps(sums[r][0], both, low);
            sums[r][1] = _mm512_dpbf16_ps(sums[r][1], both, high);
        }
    }
    const int column = block * (kind == GATED ? LANES : COLUMNS), last = column + LANES >= task->width;
    for (int r = 0; r < rows; r++) {
        floats low = (floats)sums[r][0], high = (floats)sums[r][1];
        int64_t at = (int64_t)(first + r) * task->width + column;
        bf16 *y = (bf16 *)task->y + at;
        if (kind == GATED) {
            store(y, silu(low) * high);
        } else if (kind == FLOATS) {
            memcpy((float *)task->y + at, &low, sizeof low);
            if (!last) memcpy((float *)task->y + at + LANES, &high, sizeof high);
        } else {
            store(y, kind == PLUS ? low + load(task->other + at) : low);
            if (!last) store(y + LANES, kind == PLUS ? high + load(task->other + at + LANES) : high);
        }
    }
}

#define OF_ROWS(n, kind)                                  \
    case n:                                               \
        tile(n, kind, task, first, block, next, coming);  \
        return
#define OF_KIND(kind)     \
    switch (rows) {       \
        OF_ROWS(1, kind); \
        OF_ROWS(2, kind); \
        OF_ROWS(3, kind); \
        OF_ROWS(4, kind); \
        OF_ROWS(5, kind); \
        OF_ROWS(6, kind); \
        OF_ROWS(7, kind); \
        OF_ROWS(8, kind); \
    }                     \
    return

/* A tile whose sizes the compiler knows. */
static void sized(int rows, const struct task *task, int first, int block, const char *next, int64_t coming) {
    switch (task->kind) {
        case PLAIN: OF_KIND(PLAIN);
        case FLOATS: OF_KIND(FLOATS);
        case PLUS: OF_KIND(PLUS);
        case GATED: OF_KIND(GATED);
    }
}

/* x [rows, depth] times a matrix of `blocks` blocks -> y [rows, width], by kind: PLAIN, in FLOATS, PLUS `other`
 * [rows, width], or GATED: a block is 16 columns of the gate and 16 of what it lets through. */
void product(const struct task *task, int threads) {
    const int rows = task->rows, tiles = (rows + ROWS - 1) / ROWS, steps = task->depth / 2;
    const int64_t size = (int64_t)task->depth * COLUMNS * sizeof(bf16), share = size / tiles;
#pragma omp parallel for num_threads(threads)
    for (int block = 0; block < task->blocks; block++) {
        const char *next = (const char *)task->weight + (block + 1) * size;
        for (int t = 0, first = 0; t < tiles; t++, first += ROWS)
            sized(rows - first < ROWS ? rows - first : ROWS, task, first, block, next + t * share,
                  block + 1 < task->blocks ? share / steps : 0);
    }
}
