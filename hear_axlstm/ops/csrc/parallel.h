// Work that threads share.

#pragma once

#include "numbers.h"

#include <functional>

constexpr Index WORTH_A_THREAD = 1 << 22;  // FLOPs that outweigh the cost of handing work over

// Runs the work of a function that Python calls; 1 if memory ran out, else 0.
template <class Work>
Index guarded(Work work) noexcept {
    try {
        work();
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}

// Calls part(i) for all i < parts, each on a thread of its own if there are enough. Throws
// std::bad_alloc, once all have ended, if one of them did.
void share(Index parts, const std::function<void(Index)>& part);

// Calls work(first, end) for parts of the items, on at most `threads` threads including this one.
template <class Work>
void in_parts(Index items, Index flops, Index threads, Work work) {
    const Index parts = std::max(Index(1), std::min({items, threads, flops / WORTH_A_THREAD}));
    if (parts == 1) return work(Index(0), items);
    share(parts, [&](Index i) { work(items * i / parts, items * (i + 1) / parts); });
}
