package cache

// crashDir tells the test binary to be a writer to the cache in that directory
// until it is killed.
const crashDir = "RIVULET_CACHE_CRASH_DIR"

func crashWriter(string) {}
