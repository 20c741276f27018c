//! Runs engines: schedule, paged cache, batches, sampling, text.
