package python

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/rivuletfs/rivulet/internal/lateregexp"
	"github.com/rivuletfs/rivulet/packages/lock"
	"github.com/rivuletfs/rivulet/packages/sandbox"
)

// Bounds of what is asked for.
const (
	maxRequirementBytes = 1 << 20
	maxRequirementFiles = 64
)

// Where the resolver's sandbox has the user's files.
const (
	requirementsAt = "/run/rivulet/requirements"
	linksAt        = "/run/rivulet/links"
	builtAt        = "/run/rivulet/built"
)

// A collector copies requirements, and what they include, into one folder: nothing else
// of the user's files is shown to the resolver.
type collector struct {
	dir   string
	files map[string]string // path to name in dir
	links []string          // folders of wheels that they name
	texts []string          // of files, as they are
}

// newCollector makes a collector in a folder that nobody else looks into, as requirements may
// have passwords in them: the sandbox is another user, and is given the folder in it alone.
func newCollector(temp string) (*collector, error) {
	c := &collector{dir: filepath.Join(temp, "requirements"), files: make(map[string]string)}
	return c, errors.Join(os.Mkdir(c.dir, 0o755), os.Chmod(c.dir, 0o755)) // whatever the umask
}

// linksLine names a folder of wheels.
var linksLine = lateregexp.New(`^(\s*(?:-f|--find-links)(?:\s+|=))([^\s#]+)(.*)$`)

var includeLine = lateregexp.New(`^(\s*(?:-r|--requirement|-c|--constraint)(?:\s+|=|\b))([^\s#]+)(.*)$`)

func (c *collector) add(file string) (string, error) {
	if name, ok := c.files[file]; ok {
		return name, nil
	}
	if len(c.files) == maxRequirementFiles {
		return "", fmt.Errorf("%s: more than %d files of requirements", file, maxRequirementFiles)
	}
	name := fmt.Sprintf("%d.txt", len(c.files))
	c.files[file] = name
	info, err := os.Stat(file)
	if err != nil {
		return "", err
	}
	if info.Size() > maxRequirementBytes {
		return "", fmt.Errorf("%s: %d bytes of requirements: at most %d are supported", file, info.Size(), maxRequirementBytes)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	c.texts = append(c.texts, string(data))
	var out strings.Builder
	for line := range strings.Lines(string(data)) {
		if m := includeLine().FindStringSubmatch(strings.TrimRight(line, "\r\n")); m != nil && !strings.Contains(m[2], "://") {
			other := m[2]
			if !filepath.IsAbs(other) {
				other = filepath.Join(filepath.Dir(file), other)
			}
			included, err := c.add(other)
			if err != nil {
				return "", fmt.Errorf("%s: %w", file, err)
			}
			line = m[1] + included + m[3] + "\n"
		} else if m := linksLine().FindStringSubmatch(strings.TrimRight(line, "\r\n")); m != nil && !strings.Contains(m[2], "://") {
			links := m[2]
			if !filepath.IsAbs(links) {
				links = filepath.Join(filepath.Dir(file), links)
			}
			at, err := c.addLinks(links)
			if err != nil {
				return "", fmt.Errorf("%s: %w", file, err)
			}
			line = m[1] + at + m[3] + "\n"
		}
		out.WriteString(line)
	}
	path := filepath.Join(c.dir, name)
	if err := os.WriteFile(path, []byte(out.String()), 0o644); err != nil {
		return "", err
	}
	return name, os.Chmod(path, 0o644)
}

// addLinks has the sandbox see a folder of wheels, and returns where.
func (c *collector) addLinks(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	info, err := os.Stat(dir)
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s is no folder: of files, --find-links takes folders and addresses", dir)
	}
	if err != nil {
		return "", err
	}
	i := slices.Index(c.links, dir)
	if i < 0 {
		if len(c.links) == maxRequirementFiles {
			return "", fmt.Errorf("more than %d folders of --find-links", maxRequirementFiles)
		}
		i = len(c.links)
		c.links = append(c.links, dir)
	}
	return fmt.Sprintf("%s/%d", linksAt, i), nil
}

// onHost changes what is said of a wheel in the sandbox's folders to what holds outside: its
// path, or the source that it was built of.
func (c *collector) onHost(w *lock.Wheel, sources map[string]*lock.Wheel) (source *lock.Wheel, err error) {
	u, err := url.Parse(w.URL)
	if err != nil || u.Scheme != "file" {
		return nil, err
	}
	if path.Dir(u.Path) == builtAt && sources[path.Base(u.Path)] != nil {
		return sources[path.Base(u.Path)], nil
	}
	rest, ok := strings.CutPrefix(u.Path, linksAt+"/")
	number, name, _ := strings.Cut(rest, "/")
	n, err := strconv.Atoi(number)
	if !ok || err != nil || n < 0 || n >= len(c.links) || !filepath.IsLocal(name) {
		return nil, fmt.Errorf("it chose %s, which is in no folder that was given", w.URL)
	}
	w.URL, w.Path = "", filepath.Join(c.links[n], name)
	return nil, nil
}

// arguments copies files of requirements into the sandbox's folder, and returns pip's and uv's
// arguments for them. It checks the requirements that are given without a file.
func (c *collector) arguments(q Request, constraints string) (args []string, err error) {
	for _, s := range q.Specs {
		if strings.HasPrefix(s, "-") || strings.ContainsAny(s, "\n\r") {
			return nil, fmt.Errorf("requirement %q: an option is none", s)
		}
	}
	for _, file := range q.Files {
		name, err := c.add(file)
		if err != nil {
			return nil, err
		}
		args = append(args, "-r", requirementsAt+"/"+name)
	}
	if constraints != "" {
		name, err := c.add(constraints)
		if err != nil {
			return nil, fmt.Errorf("pip's setting of constraints: %w", err)
		}
		args = append(args, "-c", requirementsAt+"/"+name)
	}
	return args, nil
}

// specs writes requirements into a file of the folder, and returns its path in the sandbox.
func (c *collector) specs(list []string) (string, error) {
	file := filepath.Join(c.dir, specsFile)
	return requirementsAt + "/" + specsFile, errors.Join(os.WriteFile(file, []byte(strings.Join(list, "\n")+"\n"), 0o644), os.Chmod(file, 0o644))
}

const specsFile = "specs.txt"

// binds are what the sandbox sees of the machine for these requirements.
func (c *collector) binds() []sandbox.Bind {
	out := []sandbox.Bind{{Source: c.dir, Dest: requirementsAt}}
	for i, links := range c.links {
		out = append(out, sandbox.Bind{Source: links, Dest: fmt.Sprintf("%s/%d", linksAt, i)})
	}
	return out
}
