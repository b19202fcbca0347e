// What Kubernetes' own reader of YAML makes of documents: the yardstick of agent/model/yaml.ts.
//
// Standard input is a JSON array of documents, each in base64. Standard output is a JSON array of the same length, where each entry has
// either "json", the document as JSON, or "error". "strict" is the error of the strict reader, which refuses keys that stand twice. "ambiguous"
// says that keys of different types, such as 1 and "1", become the same one: which of them counts is chance.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"

	yamlv2 "go.yaml.in/yaml/v2"
	"sigs.k8s.io/yaml"
)

type answer struct {
	JSON      json.RawMessage `json:"json,omitempty"`
	Error     string          `json:"error,omitempty"`
	Strict    string          `json:"strict,omitempty"`
	Ambiguous bool            `json:"ambiguous,omitempty"`
}

func ambiguous(value any) bool {
	switch value := value.(type) {
	case []any:
		for _, item := range value {
			if ambiguous(item) {
				return true
			}
		}
	case map[any]any:
		names := map[string]bool{}
		for key, item := range value {
			name := fmt.Sprint(key)
			if number, ok := key.(float64); ok {
				name = strconv.FormatFloat(number, 'g', -1, 32)
				switch name {
				case "+Inf":
					name = ".inf"
				case "-Inf":
					name = "-.inf"
				case "NaN":
					name = ".nan"
				}
			}
			if names[name] || ambiguous(item) {
				return true
			}
			names[name] = true
		}
	}
	return false
}

func read(document []byte) (found answer) {
	defer func() {
		if problem := recover(); problem != nil {
			found = answer{Error: fmt.Sprint("panic: ", problem)}
		}
	}()
	var value any
	if err := yamlv2.Unmarshal(document, &value); err != nil {
		return answer{Error: err.Error()}
	}
	asJSON, err := yaml.YAMLToJSON(document)
	if err != nil {
		return answer{Error: err.Error()}
	}
	if _, err := yaml.YAMLToJSONStrict(document); err != nil {
		return answer{JSON: asJSON, Strict: err.Error(), Ambiguous: ambiguous(value)}
	}
	return answer{JSON: asJSON, Ambiguous: ambiguous(value)}
}

func main() {
	var documents [][]byte
	if err := json.NewDecoder(os.Stdin).Decode(&documents); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	answers := make([]answer, 0, len(documents))
	for _, document := range documents {
		answers = append(answers, read(document))
	}
	if err := json.NewEncoder(os.Stdout).Encode(answers); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
