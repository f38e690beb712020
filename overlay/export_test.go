package overlay

// SetMergeBlocks changes how many blocks Merge copies at a time, until the returned
// function is called.
func SetMergeBlocks(n int64) (restore func()) {
	before := mergeBlocks
	mergeBlocks = n
	return func() { mergeBlocks = before }
}
