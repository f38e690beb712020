package loglimit

import (
	"bytes"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := New(slog.New(slog.NewTextHandler(&out, nil)))
		lines := func() int { return strings.Count(out.String(), "\n") }
		for range 1000 {
			log.Error("device failed")
			log.With("export", "a").WithGroup("g").Error("device failed") // shares the limit
		}
		if lines() != PerSecond {
			t.Errorf("%d lines of one message, want %d", lines(), PerSecond)
		}
		log.Error("something else")
		if lines() != PerSecond+1 {
			t.Errorf("another message was held back:\n%s", &out)
		}
		time.Sleep(time.Second)
		out.Reset()
		log.Error("device failed")
		if want := "skipped=" + strconv.Itoa(2000-PerSecond); !strings.Contains(out.String(), want) {
			t.Errorf("after a second: %q, want %s", &out, want)
		}
		log.Error("device failed")
		if lines() != 2 || strings.Count(out.String(), "skipped") != 1 {
			t.Errorf("the count is told more than once:\n%s", &out)
		}
	})
}

func TestManyMessages(t *testing.T) {
	var out bytes.Buffer
	log := New(slog.New(slog.NewTextHandler(&out, nil)))
	for i := range 10 * maxMessages {
		log.Info(strconv.Itoa(i))
	}
	if n := strings.Count(out.String(), "\n"); n > maxMessages+PerSecond {
		t.Errorf("%d lines, want at most %d", n, maxMessages+PerSecond)
	}
	if n := len(log.Handler().(*handler).limits.messages); n > maxMessages+1 {
		t.Errorf("%d messages kept", n)
	}
}
