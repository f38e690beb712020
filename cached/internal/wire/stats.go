package wire

// StatNames are what the numbers of a Statistics are, in their order: counters
// since the daemon began, bytes where the name says so, and what is now.
var StatNames = []string{
	"connections", "refused_connections", "requests",
	"hits", "misses", "parts", "flights", "waits", "timeouts",
	"leases", "expired_leases", "deposits", "complaints", "touches",
	"downloads", "failed_downloads", "downloaded_bytes",
	"zone_hits", "zone_misses",
	"chunks", "bytes", "max_bytes", "min_free_bytes", "reserved_bytes", "in_use", "kept_bytes", "pinned", "history",
	"cache_hits", "cache_misses", "cache_deposits", "deposited_bytes", "aborted_deposits", "full", "no_space",
	"evictions", "evicted_bytes", "damaged", "scrubbed_bytes", "scrub_passes",
}
