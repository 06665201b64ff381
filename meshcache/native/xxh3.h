/* XXH3, 64 bits, seed 0, the default secret: the hash of keys and entries.
 *
 * After Yann Collet's specification, doc/xxhash_spec.md of xxHash 0.8, "XXH3 Algorithm".
 * The package xxhash is the judge (tests/native/test_xxh3.py): one byte of difference
 * would make every arena of the host unreadable. It is written out here because a call
 * of the package costs as much as all the rest of a read.
 */
#ifndef MESHCACHE_XXH3_H
#define MESHCACHE_XXH3_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "written for little-endian machines; meshcache does without it on others"
#endif

#define XXH_32_1 0x9E3779B1U
#define XXH_32_2 0x85EBCA77U
#define XXH_32_3 0xC2B2AE3DU
#define XXH_64_1 0x9E3779B185EBCA87ULL
#define XXH_64_2 0xC2B2AE3D27D4EB4FULL
#define XXH_64_3 0x165667B19E3779F9ULL
#define XXH_64_4 0x85EBCA77C2B2AE63ULL
#define XXH_64_5 0x27D4EB2F165667C5ULL
#define XXH_MIX_1 0x165667919E3779F9ULL
#define XXH_MIX_2 0x9FB21C651E98DF25ULL

enum {
    XXH_SECRET = 192,
    XXH_STRIPE = 64,
    XXH_LANES = 8,
    XXH_BLOCK_STRIPES = (XXH_SECRET - XXH_STRIPE) / 8,
    XXH_BLOCK = XXH_STRIPE * XXH_BLOCK_STRIPES
};

static const uint8_t xxh_secret[XXH_SECRET] = {
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c,
    0xf7, 0x21, 0xad, 0x1c, 0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb,
    0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f, 0xcb, 0x79, 0xe6, 0x4e,
    0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21,
    0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6,
    0x81, 0x3a, 0x26, 0x4c, 0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb,
    0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3, 0x71, 0x64, 0x48, 0x97, 0xa2,
    0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8, 0xa8,
    0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7,
    0x0b, 0x4f, 0x1d, 0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8,
    0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64, 0xea, 0xc5, 0xac, 0x83, 0x34,
    0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb, 0x17,
    0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16, 0x55, 0x26, 0x29,
    0xd4, 0x68, 0x9e, 0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f,
    0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce, 0x45, 0xcb, 0x3a, 0x8f, 0x95,
    0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e,
};

static inline uint32_t
xxh_u32(const uint8_t *at)
{
    uint32_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

static inline uint64_t
xxh_u64(const uint8_t *at)
{
    uint64_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

static inline uint64_t
xxh_rotl(uint64_t word, int by)
{
    return word << by | word >> (64 - by);
}

static inline uint64_t
xxh_fold(uint64_t left, uint64_t right)
{
    unsigned __int128 product = (unsigned __int128)left * right;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t
xxh_avalanche(uint64_t hash)
{
    hash = (hash ^ hash >> 37) * XXH_MIX_1;
    return hash ^ hash >> 32;
}

static inline uint64_t
xxh_avalanche_xxh64(uint64_t hash)
{
    hash = (hash ^ hash >> 33) * XXH_64_2;
    hash = (hash ^ hash >> 29) * XXH_64_3;
    return hash ^ hash >> 32;
}

/* 16 bytes of the input with 16 of the secret. */
static inline uint64_t
xxh_mix(const uint8_t *in, const uint8_t *secret)
{
    return xxh_fold(xxh_u64(in) ^ xxh_u64(secret), xxh_u64(in + 8) ^ xxh_u64(secret + 8));
}

static inline uint64_t
xxh_to_16(const uint8_t *in, size_t size)
{
    const uint8_t *secret = xxh_secret;
    if (size > 8) {
        uint64_t low = xxh_u64(in) ^ xxh_u64(secret + 24) ^ xxh_u64(secret + 32);
        uint64_t high =
            xxh_u64(in + size - 8) ^ xxh_u64(secret + 40) ^ xxh_u64(secret + 48);
        return xxh_avalanche(size + __builtin_bswap64(low) + high + xxh_fold(low, high));
    }
    if (size >= 4) {
        uint64_t hash = xxh_u32(in + size - 4) + ((uint64_t)xxh_u32(in) << 32);
        hash ^= xxh_u64(secret + 8) ^ xxh_u64(secret + 16);
        hash ^= xxh_rotl(hash, 49) ^ xxh_rotl(hash, 24);
        hash *= XXH_MIX_2;
        hash ^= (hash >> 35) + size;
        hash *= XXH_MIX_2;
        return hash ^ hash >> 28;
    }
    if (size) {
        uint32_t word = (uint32_t)in[0] << 16 | (uint32_t)in[size >> 1] << 24 |
                        in[size - 1] | (uint32_t)size << 8;
        return xxh_avalanche_xxh64(word ^ (xxh_u32(secret) ^ xxh_u32(secret + 4)));
    }
    return xxh_avalanche_xxh64(xxh_u64(secret + 56) ^ xxh_u64(secret + 64));
}

/* From both ends inwards, in pairs. */
static inline uint64_t
xxh_to_128(const uint8_t *in, size_t size)
{
    uint64_t sum = size * XXH_64_1;
    for (size_t pair = (size - 1) / 32 + 1; pair-- > 0;) {
        sum += xxh_mix(in + 16 * pair, xxh_secret + 32 * pair);
        sum += xxh_mix(in + size - 16 * (pair + 1), xxh_secret + 32 * pair + 16);
    }
    return xxh_avalanche(sum);
}

static inline uint64_t
xxh_to_240(const uint8_t *in, size_t size)
{
    uint64_t sum = size * XXH_64_1;
    for (size_t part = 0; part < 8; part++)
        sum += xxh_mix(in + 16 * part, xxh_secret + 16 * part);
    sum = xxh_avalanche(sum);
    for (size_t part = 8; part < size / 16; part++)
        sum += xxh_mix(in + 16 * part, xxh_secret + 16 * (part - 8) + 3);
    sum += xxh_mix(in + size - 16, xxh_secret + 136 - 17);
    return xxh_avalanche(sum);
}

static inline void
xxh_stripe(uint64_t *lanes, const uint8_t *in, const uint8_t *secret)
{
    for (size_t lane = 0; lane < XXH_LANES; lane++) {
        uint64_t word = xxh_u64(in + 8 * lane);
        uint64_t key = word ^ xxh_u64(secret + 8 * lane);
        lanes[lane ^ 1] += word;
        lanes[lane] += (uint32_t)key * (key >> 32);
    }
}

static uint64_t
xxh_long(const uint8_t *in, size_t size)
{
    uint64_t lanes[XXH_LANES] = {
        XXH_32_3, XXH_64_1, XXH_64_2, XXH_64_3, XXH_64_4, XXH_32_2, XXH_64_5, XXH_32_1,
    };
    const uint8_t *at = in, *last = in + size - XXH_STRIPE;
    for (size_t blocks = (size - 1) / XXH_BLOCK; blocks-- > 0;) {
        for (size_t stripe = 0; stripe < XXH_BLOCK_STRIPES; stripe++)
            xxh_stripe(lanes, at + XXH_STRIPE * stripe, xxh_secret + 8 * stripe);
        for (size_t lane = 0; lane < XXH_LANES; lane++) {
            uint64_t word = lanes[lane];
            word ^= word >> 47;
            word ^= xxh_u64(xxh_secret + XXH_SECRET - XXH_STRIPE + 8 * lane);
            lanes[lane] = word * XXH_32_1;
        }
        at += XXH_BLOCK;
    }
    size_t rest = (size_t)(in + size - 1 - at) / XXH_STRIPE;
    for (size_t stripe = 0; stripe < rest; stripe++)
        xxh_stripe(lanes, at + XXH_STRIPE * stripe, xxh_secret + 8 * stripe);
    xxh_stripe(lanes, last, xxh_secret + XXH_SECRET - XXH_STRIPE - 7);
    uint64_t sum = size * XXH_64_1;
    for (size_t pair = 0; pair < XXH_LANES / 2; pair++)
        sum += xxh_fold(lanes[2 * pair] ^ xxh_u64(xxh_secret + 11 + 16 * pair),
                        lanes[2 * pair + 1] ^ xxh_u64(xxh_secret + 19 + 16 * pair));
    return xxh_avalanche(sum);
}

static inline uint64_t
xxh3(const uint8_t *in, size_t size)
{
    if (size <= 16)
        return xxh_to_16(in, size);
    if (size <= 128)
        return xxh_to_128(in, size);
    if (size <= 240)
        return xxh_to_240(in, size);
    return xxh_long(in, size);
}

#endif
