package memory

import (
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/origin/origintest"
)

func TestOrigin(t *testing.T) {
	origintest.TestOrigin(t, func(*testing.T) origin.Origin { return New() })
}

// TestFaultsAtRest checks that a wrapper without a fault is a plain source, and
// that a Door behind delays is a plain reader.
func TestFaultsAtRest(t *testing.T) {
	s := New().Generation(1)
	objects := chunktest.Fill(t, s)
	var src chunk.Source = &chunktest.Counting{Source: s}
	src = &chunktest.Flaky{Source: &chunktest.Corrupt{Source: &chunktest.Truncated{Source: &chunktest.Hung{Source: src}}}}
	t.Run("Source", func(t *testing.T) { chunktest.TestSource(t, src, objects) })
	slow := &chunktest.Slow{Source: s, Latency: 20 * time.Microsecond, Bandwidth: 10 << 30}
	t.Run("Slow", func(t *testing.T) { chunktest.TestSource(t, slow, objects[2:4]) })
	t.Run("Door", func(t *testing.T) { chunktest.TestReader(t, chunk.NewDoor(slow), objects[2:4]) })
}

func BenchmarkSource(b *testing.B) { chunktest.BenchmarkSource(b, New().Generation(1)) }
func BenchmarkDoor(b *testing.B)   { chunktest.BenchmarkDoor(b, New().Generation(1)) }
