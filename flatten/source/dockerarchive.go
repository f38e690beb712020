package source

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
)

const (
	maxMembers   = 100_000 // of a docker archive
	maxLinkDepth = 8       // members that link to one another
)

// A dockerArchive is what docker save writes: a tar file with layers as members.
type dockerArchive struct {
	f       *os.File
	members map[string]member
}

type member struct {
	offset, size int64
	link         string // the member that has the data, if not this one
}

func openDockerArchive(_ context.Context, src string, opts *Options) (*Image, error) {
	f, remove, err := seekable(src, opts.TempDir)
	if err != nil {
		return nil, err
	}
	img, err := readDockerArchive(f)
	if err != nil {
		return nil, errors.Join(err, remove())
	}
	img.Reference = "docker-archive:" + src
	img.cleanup = append(img.cleanup, remove)
	return img, nil
}

// seekable opens a file; a compressed one is decompressed into a temporary file.
func seekable(src, tempDir string) (*os.File, func() error, error) {
	f, err := os.Open(src)
	if err != nil {
		return nil, nil, err
	}
	var head [4]byte
	if n, _ := f.ReadAt(head[:], 0); sniff(head[:n]) == plain {
		return f, f.Close, nil
	}
	r, err := decompress(f)
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	temp, remove, err := tempFile(tempDir)
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	_, err = io.Copy(temp, r)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, nil, errors.Join(err, remove())
	}
	return temp, remove, nil
}

func readDockerArchive(f *os.File) (*Image, error) {
	a := dockerArchive{f: f, members: make(map[string]member)}
	if err := a.index(); err != nil {
		return nil, fmt.Errorf("docker archive: %w", err)
	}
	raw, err := a.read("manifest.json", maxManifestBytes)
	if err != nil {
		return nil, err
	}
	var images []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(raw, &images); err != nil {
		return nil, fmt.Errorf("docker archive: manifest.json: %w", err)
	}
	if len(images) != 1 {
		var tags []string
		for _, img := range images {
			tags = append(tags, img.RepoTags...)
		}
		return nil, fmt.Errorf("docker archive: it holds %d images %q, want one", len(images), tags)
	}
	config, err := a.read(images[0].Config, maxConfigBytes)
	if err != nil {
		return nil, err
	}
	layers, err := a.layers(images[0].Layers, config)
	if err != nil {
		return nil, err
	}
	return &Image{Digest: sha256Of(config), Config: config, Layers: layers}, nil
}

// index finds the archive's members.
func (a *dockerArchive) index() error {
	if _, err := a.f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	r := tar.NewReader(a.f) // does not read past a header until asked for data
	for {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return err
		}
		if len(a.members) == maxMembers {
			return fmt.Errorf("more than %d members", maxMembers)
		}
		name := path.Clean(h.Name)
		switch h.Typeflag {
		case tar.TypeReg:
			at, err := a.f.Seek(0, io.SeekCurrent)
			if err != nil {
				return err
			}
			a.members[name] = member{offset: at, size: h.Size}
		case tar.TypeSymlink:
			a.members[name] = member{link: path.Join(path.Dir(name), h.Linkname)}
		case tar.TypeLink:
			a.members[name] = member{link: path.Clean(h.Linkname)}
		}
	}
}

func (a *dockerArchive) member(name string) (member, error) {
	at := path.Clean(name)
	for range maxLinkDepth {
		m, ok := a.members[at]
		if !ok {
			return member{}, fmt.Errorf("docker archive: no member %q", name)
		}
		if m.link == "" {
			return m, nil
		}
		at = m.link
	}
	return member{}, fmt.Errorf("docker archive: member %q links too deep", name)
}

func (a *dockerArchive) read(name string, max int64) ([]byte, error) {
	m, err := a.member(name)
	if err != nil {
		return nil, err
	}
	data, err := readBounded(io.NewSectionReader(a.f, m.offset, m.size), max)
	if err == nil && int64(len(data)) < m.size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, fmt.Errorf("docker archive: member %q: %w", name, err)
	}
	return data, nil
}

func (a *dockerArchive) layers(names []string, config []byte) ([]*Layer, error) {
	ids, err := diffIDs(config)
	if err != nil {
		return nil, err
	}
	if len(ids) != len(names) {
		return nil, fmt.Errorf("docker archive: %d layers, image configuration has %d", len(names), len(ids))
	}
	layers := make([]*Layer, len(names))
	for i, name := range names {
		m, err := a.member(name)
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w", i, err)
		}
		layers[i] = &Layer{DiffID: ids[i], Size: m.size, open: func(context.Context) (io.ReadCloser, error) {
			return io.NopCloser(io.NewSectionReader(a.f, m.offset, m.size)), nil
		}}
	}
	return layers, nil
}
