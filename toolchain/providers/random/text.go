package random

import (
	"context"
	"crypto/rand"
	"fmt"
	"math/big"

	provider "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi-go-provider/infer"
	"golang.org/x/crypto/bcrypt"
)

const (
	lowerLetters  = "abcdefghijklmnopqrstuvwxyz"
	upperLetters  = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	digits        = "0123456789"
	specialLetter = "!@#$%&*()-_=+[]{}<>:?"

	// bcryptLimit is how many bytes of a password bcrypt looks at.
	bcryptLimit = 72
)

// TextInputs is what RandomPassword and RandomString have in common.
type TextInputs struct {
	Length          int               `pulumi:"length"`
	Lower           *bool             `pulumi:"lower,optional"`
	Upper           *bool             `pulumi:"upper,optional"`
	Numeric         *bool             `pulumi:"numeric,optional"`
	Number          *bool             `pulumi:"number,optional"`
	Special         *bool             `pulumi:"special,optional"`
	MinLower        *int              `pulumi:"minLower,optional"`
	MinUpper        *int              `pulumi:"minUpper,optional"`
	MinNumeric      *int              `pulumi:"minNumeric,optional"`
	MinSpecial      *int              `pulumi:"minSpecial,optional"`
	OverrideSpecial *string           `pulumi:"overrideSpecial,optional"`
	Keepers         map[string]string `pulumi:"keepers,optional"`
}

// Annotate documents the inputs and sets their defaults. `numeric` and its old
// name `number` have theirs from checkText.
func (t *TextInputs) Annotate(a infer.Annotator) {
	a.Describe(&t.Length, "How many characters: at least 1, and at least the sum of the minima.")
	a.Describe(&t.Lower, "Use lower case letters.")
	a.SetDefault(&t.Lower, true)
	a.Describe(&t.Upper, "Use upper case letters.")
	a.SetDefault(&t.Upper, true)
	a.Describe(&t.Numeric, "Use digits. True by default.")
	a.Describe(&t.Number, "The old name of numeric.")
	a.Deprecate(&t.Number, "Use numeric instead.")
	a.Describe(&t.Special, "Use special characters.")
	a.SetDefault(&t.Special, true)
	a.Describe(&t.MinLower, "How many lower case letters at least.")
	a.SetDefault(&t.MinLower, 0)
	a.Describe(&t.MinUpper, "How many upper case letters at least.")
	a.SetDefault(&t.MinUpper, 0)
	a.Describe(&t.MinNumeric, "How many digits at least.")
	a.SetDefault(&t.MinNumeric, 0)
	a.Describe(&t.MinSpecial, "How many special characters at least.")
	a.SetDefault(&t.MinSpecial, 0)
	a.Describe(&t.OverrideSpecial, "The special characters to use instead of the usual ones.")
	a.Describe(&t.Keepers, keepersText)
}

// alphabet is one kind of character, and how many of it there must be.
type alphabet struct {
	letters string
	used    bool
	minimum int
}

func (t *TextInputs) alphabets() []alphabet {
	special := specialLetter
	if t.OverrideSpecial != nil && *t.OverrideSpecial != "" {
		special = *t.OverrideSpecial
	}
	return []alphabet{
		{lowerLetters, *t.Lower, *t.MinLower},
		{upperLetters, *t.Upper, *t.MinUpper},
		{digits, *t.Numeric, *t.MinNumeric},
		{special, *t.Special, *t.MinSpecial},
	}
}

// checkText sets the defaults and says what cannot be.
func checkText(ctx context.Context, request infer.CheckRequest) (infer.CheckResponse[TextInputs], error) {
	inputs, failures, err := infer.DefaultCheck[TextInputs](ctx, request.NewInputs)
	response := infer.CheckResponse[TextInputs]{Inputs: inputs, Failures: failures}
	if err != nil || len(failures) > 0 {
		return response, err
	}
	refuse := func(property, reason string, values ...any) {
		response.Failures = append(response.Failures,
			provider.CheckFailure{Property: property, Reason: fmt.Sprintf(reason, values...)})
	}
	yes := true
	switch in := &response.Inputs; {
	case in.Number != nil && in.Numeric != nil && *in.Number != *in.Numeric:
		refuse("number", "number and numeric differ; give only numeric")
	case in.Numeric == nil && in.Number != nil:
		in.Numeric = in.Number
	case in.Numeric == nil:
		in.Numeric, in.Number = &yes, &yes
	default:
		in.Number = in.Numeric
	}
	for _, name := range []string{"length", "lower", "upper", "numeric", "number", "special", "minLower", "minUpper", "minNumeric", "minSpecial"} {
		if value, given := request.NewInputs.GetOk(name); given && value.HasComputed() {
			return response, nil
		}
	}
	sum, any := 0, false
	for _, kind := range response.Inputs.alphabets() {
		sum += kind.minimum
		any = any || kind.used
	}
	if inputs.Length < max(1, sum) {
		refuse("length", "must be at least %d, got %d", max(1, sum), inputs.Length)
	}
	if !any && inputs.Length > sum {
		refuse("length", "there is no kind of character to make %d characters of", inputs.Length)
	}
	return response, nil
}

// text makes the value: the minima first, then any of the used characters, and
// all of it shuffled.
func (t *TextInputs) text() (string, error) {
	var all string
	var result []byte
	draw := func(letters string, count int) error {
		for range count {
			index, err := below(len(letters))
			if err != nil {
				return err
			}
			result = append(result, letters[index])
		}
		return nil
	}
	for _, kind := range t.alphabets() {
		if kind.used {
			all += kind.letters
		}
		if err := draw(kind.letters, kind.minimum); err != nil {
			return "", err
		}
	}
	if err := draw(all, t.Length-len(result)); err != nil {
		return "", err
	}
	for i := len(result) - 1; i > 0; i-- {
		j, err := below(i + 1)
		if err != nil {
			return "", err
		}
		result[i], result[j] = result[j], result[i]
	}
	return string(result), nil
}

// below returns a random number from 0 up to but not including limit.
func below(limit int) (int, error) {
	number, err := rand.Int(rand.Reader, big.NewInt(int64(limit)))
	if err != nil {
		return 0, err
	}
	return int(number.Int64()), nil
}

// RandomPassword is random:index/randomPassword:RandomPassword.
type RandomPassword struct{}

// RandomPasswordOutputs is the state.
type RandomPasswordOutputs struct {
	TextInputs
	Result     string `pulumi:"result" provider:"secret"`
	BcryptHash string `pulumi:"bcryptHash" provider:"secret"`
}

// Annotate names and documents the resource.
func (r *RandomPassword) Annotate(a infer.Annotator) {
	a.SetToken("index/randomPassword", "RandomPassword")
	a.Describe(&r, "A random password, secret in the state.")
}

// Check sets the defaults.
func (*RandomPassword) Check(ctx context.Context, request infer.CheckRequest) (infer.CheckResponse[TextInputs], error) {
	return checkText(ctx, request)
}

// Create makes the password. Its ID says nothing, as IDs are not encrypted.
func (*RandomPassword) Create(
	_ context.Context, request infer.CreateRequest[TextInputs],
) (infer.CreateResponse[RandomPasswordOutputs], error) {
	response := infer.CreateResponse[RandomPasswordOutputs]{ID: "none", Output: RandomPasswordOutputs{TextInputs: request.Inputs}}
	if request.DryRun {
		return response, nil
	}
	result, err := request.Inputs.text()
	if err != nil {
		return response, err
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(result)[:min(len(result), bcryptLimit)], bcrypt.DefaultCost)
	if err != nil {
		return response, err
	}
	response.Output.Result, response.Output.BcryptHash = result, string(hash)
	return response, nil
}

// WireDependencies marks the value secret.
func (*RandomPassword) WireDependencies(f infer.FieldSelector, _ *TextInputs, state *RandomPasswordOutputs) {
	f.OutputField(&state.Result).AlwaysSecret()
	f.OutputField(&state.BcryptHash).AlwaysSecret()
}

// RandomString is random:index/randomString:RandomString.
type RandomString struct{}

// RandomStringOutputs is the state.
type RandomStringOutputs struct {
	TextInputs
	Result string `pulumi:"result"`
}

// Annotate names and documents the resource.
func (r *RandomString) Annotate(a infer.Annotator) {
	a.SetToken("index/randomString", "RandomString")
	a.Describe(&r, "Random text; not a secret.")
}

// Check sets the defaults.
func (*RandomString) Check(ctx context.Context, request infer.CheckRequest) (infer.CheckResponse[TextInputs], error) {
	return checkText(ctx, request)
}

// Create makes the text, which is also the ID.
func (*RandomString) Create(
	_ context.Context, request infer.CreateRequest[TextInputs],
) (infer.CreateResponse[RandomStringOutputs], error) {
	response := infer.CreateResponse[RandomStringOutputs]{Output: RandomStringOutputs{TextInputs: request.Inputs}}
	if request.DryRun {
		return response, nil
	}
	result, err := request.Inputs.text()
	response.ID, response.Output.Result = result, result
	return response, err
}
