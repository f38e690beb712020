package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// An age is a duration on the command line that may be given in days: "30d",
// "36h".
type age time.Duration

const day = 24 * time.Hour

// String implements pflag.Value.
func (a *age) String() string {
	if d := time.Duration(*a); d != 0 && d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	return time.Duration(*a).String()
}

// Set implements pflag.Value.
func (a *age) Set(s string) error {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return fmt.Errorf("%q: want a number of days, like 30d", s)
		}
		*a = age(time.Duration(n) * day)
		return nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return fmt.Errorf("%q: want a duration, like 30d or 12h", s)
	}
	*a = age(d)
	return nil
}

// Type implements pflag.Value.
func (a *age) Type() string { return "age" }
