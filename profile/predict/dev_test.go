package predict

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"testing"
	"time"
)

func TestDev(t *testing.T) {
	if os.Getenv("DEV") == "" {
		t.Skip()
	}
	fsys := os.DirFS("/").(fs.ReadLinkFS)
	b := time.Now()
	r, err := Reads(context.Background(), fsys, Start{Args: []string{"/bin/sh", "-c", os.Getenv("DEV")}})
	sums := map[string]int64{}
	var order []string
	total := int64(0)
	for _, x := range r {
		if _, ok := sums[x.Path]; !ok {
			order = append(order, x.Path)
		}
		sums[x.Path] += x.Length
		total += x.Length
	}
	for _, p := range order {
		fmt.Println(sums[p], p)
	}
	fmt.Println("total", total, err, time.Since(b))
}
