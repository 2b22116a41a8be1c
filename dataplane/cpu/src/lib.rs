//! What Towpath asks of the processor: prefetch, time stamp counter.
