package predict

import (
	"bytes"
	"encoding/binary"
	"path"
	"strings"
)

// erlangStart are the modules that its first application, kernel, starts with, beside those of the
// boot script.
var erlangStart = strings.Fields(`beam_lib erl_distribution erl_features erl_signal_handler erpc gb_sets gb_trees global global_group inet inet_config
	inet_db inet_parse inet_udp kernel_config kernel_refc logger_formatter logger_h_common logger_handler_watcher logger_olp logger_proxy logger_std_h
	logger_sup maps net_kernel os peer proplists queue rand rpc standard_error supervisor_bridge unicode user user_sup`)

// erlangBegins follows what Erlang reads before any program: f, which erl runs, runs the emulator
// beside it, and that loads the modules that its boot script begins with.
func (p *predictor) erlangBegins(f *file) {
	bin := path.Dir("/" + f.path)
	for _, name := range []string{"beam.smp", "erl_child_setup", "inet_gethost"} {
		if g := p.executable(path.Join(bin, name)); g != nil {
			p.run(g, 1)
		}
	}
	home := path.Dir(path.Dir(bin))
	boot := p.file(home + "/bin/start.boot")
	if boot == nil || boot.size > maxText {
		return
	}
	p.addWhole(boot)
	modules := append(bootModules(boot.bytes(0, boot.size)), erlangStart...)
	for _, pattern := range []string{"/lib/kernel-*/ebin", "/lib/stdlib-*/ebin"} {
		for _, dir := range p.glob(home + pattern) {
			for _, m := range modules {
				p.wholes(path.Join(dir, m+".beam"))
			}
		}
	}
}

// Tags of Erlang's external terms.
const (
	erlangAtom  = 'd' // and the length of its name in 16 bits
	erlangShort = 'w' // in 8
	erlangList  = 'l' // and how many terms follow in 32
)

// bootModules returns the modules that a boot script loads first. What the applications have beside
// is loaded when it is called.
func bootModules(b []byte) (modules []string) {
	_, b, found := bytes.Cut(b, []byte("primLoad"))
	if !found || len(b) < 5 || b[0] != erlangList {
		return nil
	}
	n := min(binary.BigEndian.Uint32(b[1:]), maxModules)
	b = b[5:]
	for ; n > 0 && len(b) >= 3; n-- {
		head, size := 0, 0
		switch b[0] {
		case erlangAtom:
			head, size = 3, int(binary.BigEndian.Uint16(b[1:]))
		case erlangShort:
			head, size = 2, int(b[1])
		}
		if head == 0 || head+size > len(b) {
			break
		}
		modules = append(modules, string(b[head:head+size]))
		b = b[head+size:]
	}
	return modules
}
