package cached_test

const childVariable = "RIVULET_CACHED_CHILD"

func child(string) {}
