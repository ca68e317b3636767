// Work that threads share.

#pragma once

#include "numbers.h"

#include <functional>

constexpr Index WORTH_A_THREAD = 1 << 22;  // FLOPs that outweigh the cost of handing work over

// Calls part(i) for all i < parts, each on a thread of its own if there are enough.
void share(Index parts, const std::function<void(Index)>& part);

// Calls work(first, end) for parts of the items, on at most `threads` threads including this one.
template <class Work>
void in_parts(Index items, Index flops, Index threads, Work work) {
    const Index parts = std::max(Index(1), std::min({items, threads, flops / WORTH_A_THREAD}));
    if (parts == 1) return work(Index(0), items);
    share(parts, [&](Index i) { work(items * i / parts, items * (i + 1) / parts); });
}
