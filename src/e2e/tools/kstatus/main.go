// kstatus answers each JSON object of its input (one a line) with one line: its status and the message, separated by a tab,
// as the library of Flux and Helm 4 computes them.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func main() {
	if err := classify(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "kstatus:", err)
		os.Exit(1)
	}
}

func classify(in io.Reader, out io.Writer) error {
	objects := json.NewDecoder(in)
	for {
		var text json.RawMessage
		if err := objects.Decode(&text); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		// Not decoded at once: the library wants whole numbers as such.
		var object unstructured.Unstructured
		if err := object.UnmarshalJSON(text); err != nil {
			return err
		}
		result, err := status.Compute(&object)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s\t%s\n", result.Status, strings.ReplaceAll(result.Message, "\n", " "))
	}
}
