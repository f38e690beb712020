package deploy_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"text/template"

	"go.yaml.in/yaml/v3"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// strict reads YAML into a type of Kubernetes; a field that this does not have is an error.
func strict(t *testing.T, b []byte, into any) {
	t.Helper()
	var any map[string]any
	if err := yaml.Unmarshal(b, &any); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	j, err := json.Marshal(any)
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(bytes.NewReader(j))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// checkDaemonSet wants one that can install on its node, and returns its arguments.
func checkDaemonSet(t *testing.T, b []byte) (args []string) {
	t.Helper()
	var d appsv1.DaemonSet
	strict(t, b, &d)
	pod := d.Spec.Template
	if d.Kind != "DaemonSet" || d.APIVersion != "apps/v1" {
		t.Errorf("a %s of %s", d.Kind, d.APIVersion)
	}
	for key, value := range d.Spec.Selector.MatchLabels {
		if pod.Labels[key] != value {
			t.Errorf("it does not find its pods by %s", key)
		}
	}
	if len(pod.Spec.Containers) != 1 || !pod.Spec.HostPID {
		t.Fatalf("pods are %+v", pod.Spec)
	}
	c := pod.Spec.Containers[0]
	if c.SecurityContext == nil || c.SecurityContext.Privileged == nil || !*c.SecurityContext.Privileged || c.Image == "" {
		t.Errorf("container is %+v", c)
	}
	mounted := map[string]string{}
	for _, v := range pod.Spec.Volumes {
		if v.HostPath != nil {
			mounted[v.Name] = v.HostPath.Path
		}
	}
	if len(c.VolumeMounts) != 1 || mounted[c.VolumeMounts[0].Name] != "/" || c.VolumeMounts[0].MountPath != "/host" {
		t.Errorf("the node's folder is not at /host: %+v of %+v", c.VolumeMounts, pod.Spec.Volumes)
	}
	return c.Args
}

func TestKustomize(t *testing.T) {
	if args := checkDaemonSet(t, read(t, "kubernetes/base/daemonset.yaml")); len(args) != 6 || args[1] != "install" {
		t.Errorf("arguments are %q", args)
	}
	var ns corev1.Namespace
	strict(t, read(t, "kubernetes/base/namespace.yaml"), &ns)
	for _, dir := range []string{"base", "remove"} {
		var k struct {
			APIVersion, Kind, Namespace string
			Resources                   []string
			Patches                     []struct {
				Target map[string]string
				Patch  string
			}
		}
		strict(t, read(t, filepath.Join("kubernetes", dir, "kustomization.yaml")), &k)
		for _, r := range k.Resources {
			if _, err := os.Stat(filepath.Join("kubernetes", dir, r)); err != nil {
				t.Error(err)
			}
		}
		for _, p := range k.Patches {
			var steps []struct{ Op, Path, Value any }
			if err := yaml.Unmarshal([]byte(p.Patch), &steps); err != nil || len(steps) == 0 {
				t.Errorf("%s: patch %q: %v", dir, p.Patch, err)
			}
		}
	}
}

// TestHelm renders the chart with those of Helm's functions that it uses.
func TestHelm(t *testing.T) {
	funcs := template.FuncMap{
		"quote":  func(v any) string { return fmt.Sprintf("%q", fmt.Sprint(v)) },
		"toJson": func(v any) (string, error) { b, err := json.Marshal(v); return string(b), err },
	}
	chart, err := template.New("daemonset").Option("missingkey=error").Funcs(funcs).Parse(string(read(t, "helm/rivulet/templates/daemonset.yaml")))
	if err != nil {
		t.Fatal(err)
	}
	var values map[string]any
	if err := yaml.Unmarshal(read(t, "helm/rivulet/values.yaml"), &values); err != nil {
		t.Fatal(err)
	}
	for _, remove := range []bool{false, true} {
		values["remove"] = remove
		var out bytes.Buffer
		if err := chart.Execute(&out, map[string]any{"Values": values, "Release": map[string]string{"Name": "rivulet"}}); err != nil {
			t.Fatal(err)
		}
		args := strings.Join(checkDaemonSet(t, out.Bytes()), " ")
		want := "node install --snapshotter-options=--own-repository --image-service /run/rivulet/images.sock --cache-options=--size 50G --wait --host=/host"
		if remove {
			want = "node remove --wait --host=/host"
		}
		if args != want {
			t.Errorf("arguments are %q, want %q", args, want)
		}
	}
	var about map[string]any
	if err := yaml.NewDecoder(bytes.NewReader(read(t, "helm/rivulet/Chart.yaml"))).Decode(&about); err != nil && err != io.EOF || about["name"] != "rivulet" {
		t.Errorf("%v, %v", about, err)
	}
}
