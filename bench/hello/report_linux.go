package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"html/template"
	"os"
	"slices"
	"strings"
)

//go:embed report.html
var pageText string

//go:embed method.txt
var methodText string

var page = template.Must(template.New("report").Parse(pageText))

// A section of a report is what belongs to one link.
type section struct {
	Link                       string
	Bars, Whole, Times, Beside template.HTML
	Fetched                    template.HTML
}

// reportCommand writes what results come to, for people.
func reportCommand(_ context.Context, args []string) error {
	f := flag.NewFlagSet("report", flag.ContinueOnError)
	htmlName, markdownName := f.String("html", "", "file of the page"), f.String("markdown", "", "file of the tables")
	notes := f.String("notes", "", "file with what has to be said of this run, in Markdown paragraphs")
	if err := f.Parse(args); err != nil {
		return err
	}
	results, err := readResults(f.Args())
	if err != nil {
		return err
	}
	var said []string
	if *notes != "" {
		text, err := os.ReadFile(*notes)
		if err != nil {
			return err
		}
		said = paragraphs(string(text))
	}
	figures := analyse(results)
	if *htmlName != "" {
		text, err := figures.html(said)
		if err != nil {
			return err
		}
		if err := os.WriteFile(*htmlName, text, 0o644); err != nil {
			return err
		}
	}
	if *markdownName != "" {
		return os.WriteFile(*markdownName, figures.markdown(said), 0o644)
	}
	if *htmlName == "" {
		return errors.New("-html or -markdown is needed")
	}
	return nil
}

func paragraphs(text string) (list []string) {
	for p := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		if p = strings.TrimSpace(p); p != "" {
			list = append(list, p)
		}
	}
	return list
}

func (f *figures) html(notes []string) ([]byte, error) {
	var sections []section
	for _, l := range slices.Backward(f.links) {
		sections = append(sections, section{
			Link: l, Bars: f.bars(l, false), Whole: f.bars(l, true), Times: f.distribution(l, false), Beside: f.distribution(l, true), Fetched: f.fetched(l),
		})
	}
	var b bytes.Buffer
	err := page.Execute(&b, map[string]any{
		"Method": paragraphs(methodText), "Notes": notes, "Facts": f.facts, "Contenders": f.abouts(), "Sections": sections, "Tables": f.tables(),
	})
	return b.Bytes(), err
}

// abouts tells what the contenders of these results are.
func (f *figures) abouts() (list []contender) {
	for _, c := range contenders {
		if slices.Contains(f.contenders, c.Name) {
			list = append(list, c)
		}
	}
	return list
}

func (f *figures) markdown(notes []string) []byte {
	var b bytes.Buffer
	b.WriteString("# Starts of containers: HelloBench again\n\nWritten by `hello report`; [hellobench.html](hellobench.html) has the plots.\n\n")
	for _, p := range slices.Concat(paragraphs(methodText), notes) {
		fmt.Fprintf(&b, "%s\n\n", p)
	}
	b.WriteString("| contender | |\n| --- | --- |\n")
	for _, c := range f.abouts() {
		fmt.Fprintf(&b, "| %s | %s |\n", c.Name, c.About)
	}
	fmt.Fprintf(&b, "\nMeasured with %s.\n\n", strings.Join(f.facts, "; "))
	for _, t := range f.tables() {
		_ = t.markdown(&b) // into memory
	}
	return append(bytes.TrimRight(b.Bytes(), "\n"), '\n')
}
