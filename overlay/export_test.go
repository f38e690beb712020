package overlay

// SetMergeBlocks changes how many blocks Merge copies at a time, until the returned
// function is called.
func SetMergeBlocks(n int64) (restore func()) {
	before := mergeBlocks
	mergeBlocks = n
	return func() { mergeBlocks = before }
}

// SetRecentRecords changes how many records the file of recent changes has, until
// the returned function is called.
func SetRecentRecords(n uint64) (restore func()) {
	before := recentRecords
	recentRecords = n
	return func() { recentRecords = before }
}
