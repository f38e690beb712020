package seal

// What vectors fix and Lock and LockRecord draw at random.
var (
	LockWith       = lock
	LockRecordWith = lockRecord
)
