package main

import (
	"fmt"
	"slices"
	"strings"
)

// How a container says that it is ready, as in the original.
const (
	modeRun  = "run"  // it exits with 0: echo, or a command as argument
	modePipe = "pipe" // the same, the command on the standard input of a shell or interpreter
	modeLine = "line" // it prints a line with Want; then it is killed
	modePoll = "poll" // an HTTP request to Port is answered with Want; then it is killed
)

// A workload is what is done with an image.
type workload struct {
	Name  string   `json:"name"`  // of the row in tables; that of the image, if it is one of the set
	Image string   `json:"image"` // in the layout
	Mode  string   `json:"mode"`
	Args  []string `json:"args"`
	Stdin string   `json:"stdin,omitempty"`
	Want  string   `json:"want,omitempty"`
	Port  int      `json:"port,omitempty"`
	// Whole says that it reads all of the image, or most of it.
	Whole bool `json:"whole,omitempty"`
}

// Ports are of the host's network, where nothing else listens.
const pollPort = 20000

func echo(image string) workload {
	return workload{Image: image, Mode: modeRun, Args: []string{"echo", "hello"}}
}

func argument(image string, args ...string) workload {
	return workload{Image: image, Mode: modeRun, Args: args}
}

func pipe(image, stdin string, args ...string) workload {
	return workload{Image: image, Mode: modePipe, Args: args, Stdin: stdin}
}

func line(image, want, script string) workload {
	return workload{Image: image, Mode: modeLine, Want: want, Args: []string{"sh", "-c", script}}
}

func poll(image, want, script string) workload {
	return workload{Image: image, Mode: modePoll, Want: want, Port: pollPort, Args: []string{"bash", "-c", script}}
}

// The set: each image with the rule of readiness that the original has for its like. Servers
// write where an image of Debian's packages lets them; a database is made first, as the
// images of the original do it.
var starts = []workload{
	echo("base"),
	argument("python3", "python3", "-c", `print("hello")`),
	argument("python3-numpy", "python3", "-c", `import numpy; print(numpy.arange(9).reshape(3, 3).dot(numpy.ones(3)))`),
	argument("python3-sci", "python3", "-c", `import numpy, pandas, scipy.stats; print(pandas.DataFrame({"a": [1, 2]}).sum().a, scipy.stats.norm.cdf(0))`),
	poll("python3-flask", "hello", `exec python3 -c 'from flask import Flask
a = Flask("x")
a.route("/")(lambda: "hello")
a.run(port=`+fmt.Sprint(pollPort)+`)'`),
	poll("nginx", "nginx", `printf 'daemon off; pid /tmp/pid; error_log /tmp/err; events {} http { access_log off; include /etc/nginx/mime.types; server { listen 127.0.0.1:`+fmt.Sprint(pollPort)+`; root /var/www/html; index index.nginx-debian.html; } }' >/tmp/c; exec nginx -c /tmp/c`),
	line("redis", "eady to accept connections", `exec redis-server --bind 127.0.0.1 --save '' --dir /tmp`),
	line("memcached", "server listening", `exec memcached -u nobody -l 127.0.0.1 -vv`),
	line("postgres", "database system is ready to accept connections", `B=$(echo /usr/lib/postgresql/*/bin); mkdir /tmp/pg; chown postgres /tmp/pg
u='setpriv --reuid=postgres --regid=postgres --clear-groups'
$u $B/initdb -D /tmp/pg/d -A trust -N >/dev/null; exec $u $B/postgres -D /tmp/pg/d -k /tmp/pg -c listen_addresses=127.0.0.1`),
	line("mariadb", "ready for connections", `mkdir /tmp/my; chown mysql /tmp/my
mariadb-install-db --user=mysql --datadir=/tmp/my/d --skip-test-db >/dev/null
exec mariadbd --no-defaults --user=mysql --datadir=/tmp/my/d --socket=/tmp/my/s --bind-address=127.0.0.1`),
	poll("nodejs", "hello", `exec node -e 'require("http").createServer((q, r) => r.end("hello")).listen(`+fmt.Sprint(pollPort)+`, "127.0.0.1")'`),
	argument("node-npm", "npm", "--version"),
	argument("openjdk", "java", "-cp", "/lab", "Hello"),
	pipe("gcc", "cd /tmp; printf '#include <stdio.h>\\nint main(){puts(\"hello\");return 0;}' >h.c; gcc -o h h.c; ./h\n", "sh"),
	pipe("golang", "mkdir /tmp/g; cd /tmp/g; export GOCACHE=/tmp/g/c HOME=/tmp/g GO111MODULE=off CGO_ENABLED=0; printf 'package main\\nfunc main(){println(\"hello\")}' >h.go; go run h.go\n", "sh"),
	pipe("php", "php -r 'echo \"hello\\n\";'\n", "sh"),
	poll("apache", "Apache2", apache),
	poll("apache-php", "hello", `echo '<?php echo "hello";' >/var/www/html/h.php; sed -i 's/index.html/h.php/' /etc/apache2/mods-enabled/dir.conf; `+apache),
	pipe("ruby", "ruby -e 'puts \"hello\"'\n", "sh"),
	argument("perl", "perl", "-e", `print("hello\n")`),
	pipe("r-base", "sprintf(\"hello\")\nq()\n", "R", "--no-save"),
	argument("erlang", "erl", "-noshell", "-eval", `io:format("hello~n"), halt().`),
}

var apache = `mkdir /tmp/ap; . /etc/apache2/envvars; export APACHE_RUN_DIR=/tmp/ap APACHE_LOCK_DIR=/tmp/ap APACHE_LOG_DIR=/tmp/ap APACHE_PID_FILE=/tmp/ap/pid
sed "s/^Include ports.conf/Listen 127.0.0.1:` + fmt.Sprint(pollPort) + `/" /etc/apache2/apache2.conf >/etc/apache2/lab.conf
exec apache2 -f /etc/apache2/lab.conf -c "ServerName x" -D FOREGROUND`

// fileImage is made by prepare: base, and a file of 500 MB.
const fileImage = "onefile"

// wholes read everything, or much: where reading lazily cannot save anything.
var wholes = []workload{
	{Name: "walk", Image: "node-npm", Mode: modeRun, Whole: true, Args: []string{"sh", "-c", `find / -xdev -type f -print0 | xargs -0 cat | wc -c`}},
	{Name: "one-file", Image: fileImage, Mode: modeRun, Whole: true, Args: []string{"cat", "/data/file"}},
	{Name: "compile", Image: "golang", Mode: modePipe, Whole: true, Args: []string{"sh"},
		Stdin: "mkdir /tmp/g; cd /tmp/g; export GOCACHE=/tmp/g/c HOME=/tmp/g GOFLAGS=-mod=mod CGO_ENABLED=0; go build -o gofmt cmd/gofmt && ./gofmt -h\n"},
}

// workloads returns those with these names, in this order; all starts, if there are none.
// The name "whole" stands for all that read everything.
func workloads(names []string) ([]workload, error) {
	all := slices.Concat(starts, wholes)
	for i := range all {
		if all[i].Name == "" {
			all[i].Name = all[i].Image
		}
	}
	if len(names) == 0 {
		return all[:len(starts)], nil
	}
	var chosen []workload
	for _, name := range names {
		if name == "whole" {
			chosen = append(chosen, all[len(starts):]...)
			continue
		}
		i := slices.IndexFunc(all, func(w workload) bool { return w.Name == name })
		if i < 0 {
			var known []string
			for _, w := range all {
				known = append(known, w.Name)
			}
			return nil, fmt.Errorf("there is no image %q; there are %s", name, strings.Join(known, ", "))
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}
