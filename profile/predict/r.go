package predict

import (
	"path"
	"slices"
	"strings"

	"github.com/rivuletfs/rivulet/internal/lateregexp"
)

// rDefault are the packages that R attaches before any program, and the one that compiles what
// is called often.
var rDefault = []string{"methods", "datasets", "utils", "grDevices", "graphics", "stats", "compiler"}

// rFiles are what R reads of a package when it is attached, # being its name. Functions are read
// one by one, from a file that most of a package's are in.
var rFiles = []string{"Meta/package.rds", "Meta/features.rds", "Meta/nsInfo.rds", "R/#", "R/#.rdx", "R/#.rdb", "R/sysdata.rdx", "data/Rdata.rdx"}

// rHome returns the home of R, whose interpreter f is; "": it is none, nor is Rscript, which runs R.
func rHome(f *file) string {
	if dir := path.Dir(f.path); path.Base(f.path) == "R" && path.Base(dir) == "exec" {
		return "/" + path.Dir(path.Dir(dir))
	}
	return ""
}

// rBegins follows what R reads before any program, and the commands that it runs: it asks which
// system this is, and removes its temporary files in the end.
func (p *predictor) rBegins(home string) {
	p.rDirs = []string{"/usr/local/lib/R/site-library", home + "/site-library", "/usr/lib/R/site-library", home + "/library"}
	for d := range strings.SplitSeq(p.env["R_LIBS"], ":") {
		if path.IsAbs(d) && len(p.rDirs) < 64 {
			p.rDirs = append(p.rDirs, d)
		}
	}
	base := home + "/library/base/R/"
	p.wholes(base+"base", base+"base.rdx", base+"base.rdb", base+"Rprofile")
	for _, name := range []string{"Renviron", "Renviron.site", "Rprofile.site"} {
		p.wholes(home + "/etc/" + name)
	}
	for _, name := range rDefault {
		p.rPackage(name)
	}
	for _, name := range []string{"sh", "which", "uname", "rm"} {
		if f := p.lookPath(name, "/"); f != nil {
			p.run(f, 1)
		}
	}
}

// maxRName bounds the name of a package, in bytes.
const maxRName = 64

// rPackage follows a package of R, and those that it needs.
func (p *predictor) rPackage(name string) {
	if len(name) > maxRName || name == "R" {
		return
	}
	for _, d := range p.rDirs {
		if p.spent() {
			return
		}
		f := p.file(path.Join(d, name, "DESCRIPTION"))
		if f == nil {
			continue
		}
		if p.told[f.path] || p.followed >= maxModules {
			return
		}
		p.told[f.path] = true
		p.followed++
		for _, needed := range rNeeds(f.text()) {
			p.rPackage(needed)
		}
		dir := path.Dir("/" + f.path)
		for _, part := range rFiles {
			p.wholes(path.Join(dir, strings.ReplaceAll(part, "#", name)))
		}
		if l := p.file(path.Join(dir, "libs", name+".so")); l != nil {
			p.library(l)
		}
		return
	}
}

var rField = lateregexp.New(`(?m)^(?:Depends|Imports):((?:.*\n[ \t])*.*)`)

// rNeeds returns the packages that a package's description says it needs.
func rNeeds(description []byte) (names []string) {
	for _, m := range rField().FindAllSubmatch(description, 2) {
		for part := range strings.SplitSeq(string(m[1]), ",") {
			part, _, _ = strings.Cut(part, "(") // a version
			if part = strings.TrimSpace(part); part != "" && len(part) <= maxRName && len(names) < maxAsked && !slices.Contains(names, part) && !strings.Contains(part, "/") {
				names = append(names, part)
			}
		}
	}
	return names
}
