// Package remote is command:remote:Command: run a command over SSH when the
// resource is created, updated or deleted. Names, defaults and behaviour are the
// published plugin's, with two differences that no working program can see: the
// connection is closed when the command has ended, and a line of output may have
// any length.
package remote

import (
	"context"

	provider "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi-go-provider/infer"
	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
)

// Provider returns the plugin's resources.
func Provider() (provider.Provider, error) {
	return infer.NewProviderBuilder().
		WithDisplayName("Command").
		WithDescription("Runs commands on other machines as resources.").
		WithLicense("Apache-2.0").
		WithResources(infer.Resource(&Command{})).
		Build()
}

// Command is the resource; its methods are called by the engine.
type Command struct{}

var (
	_ infer.CustomResource[CommandInputs, CommandOutputs] = (*Command)(nil)
	_ infer.CustomUpdate[CommandInputs, CommandOutputs]   = (*Command)(nil)
	_ infer.CustomDelete[CommandOutputs]                  = (*Command)(nil)
)

// CommandInputs is what a program gives.
type CommandInputs struct {
	Connection             *Connection       `pulumi:"connection" provider:"secret"`
	Create                 *string           `pulumi:"create,optional"`
	Update                 *string           `pulumi:"update,optional"`
	Delete                 *string           `pulumi:"delete,optional"`
	Stdin                  *string           `pulumi:"stdin,optional"`
	Environment            map[string]string `pulumi:"environment,optional"`
	Triggers               *[]any            `pulumi:"triggers,optional" provider:"replaceOnChanges"`
	Logging                *Logging          `pulumi:"logging,optional"`
	AddPreviousOutputInEnv *bool             `pulumi:"addPreviousOutputInEnv,optional"`
}

// CommandOutputs is the resource's state: its inputs and what the last command
// that ran printed, without the last line's end.
type CommandOutputs struct {
	CommandInputs
	Stdout string `pulumi:"stdout"`
	Stderr string `pulumi:"stderr"`
}

// Annotate documents the resource.
func (c *Command) Annotate(a infer.Annotator) {
	a.Describe(&c, "A command run on another machine over SSH.")
}

// Annotate documents the inputs.
func (c *CommandInputs) Annotate(a infer.Annotator) {
	a.Describe(&c.Connection, "How to reach the machine.")
	a.Describe(&c.Create, "The command that creates the resource; also that of an update when there is no `update`.")
	a.Describe(&c.Update, "The command to run when an input has changed.")
	a.Describe(&c.Delete, "The command to run when the resource is deleted.")
	a.Describe(&c.Stdin, "Text for the command's standard input.")
	a.Describe(&c.Environment, "Variables for the command; the server must accept them (AcceptEnv).")
	a.Describe(&c.Triggers, "The resource is replaced when one of these values changes.")
	a.Describe(&c.Logging, "Which of the command's outputs are shown while it runs. Both by default.")
	a.Describe(&c.AddPreviousOutputInEnv,
		"Give the previous run's outputs to the command as PULUMI_COMMAND_STDOUT and PULUMI_COMMAND_STDERR. True by default.")
}

// Annotate documents the outputs.
func (c *CommandOutputs) Annotate(a infer.Annotator) {
	a.Describe(&c.Stdout, "What the command wrote to its standard output.")
	a.Describe(&c.Stderr, "What the command wrote to its standard error.")
}

// Create runs `create`. A command that fails leaves no resource behind, so that
// the next run tries again.
func (*Command) Create(
	ctx context.Context, request infer.CreateRequest[CommandInputs],
) (infer.CreateResponse[CommandOutputs], error) {
	id, err := resource.NewUniqueHex(request.Name, 8, 0)
	if err != nil {
		return infer.CreateResponse[CommandOutputs]{}, err
	}
	state := CommandOutputs{CommandInputs: request.Inputs}
	if !request.DryRun && state.Create != nil {
		if err := state.run(ctx, *state.Create); err != nil {
			return infer.CreateResponse[CommandOutputs]{}, err
		}
	}
	return infer.CreateResponse[CommandOutputs]{ID: id, Output: state}, nil
}

// Update runs `update`, or `create` when there is none, whichever input changed.
func (*Command) Update(
	ctx context.Context, request infer.UpdateRequest[CommandInputs, CommandOutputs],
) (infer.UpdateResponse[CommandOutputs], error) {
	state := CommandOutputs{
		CommandInputs: request.Inputs,
		Stdout:        request.State.Stdout,
		Stderr:        request.State.Stderr,
	}
	command := state.Update
	if command == nil {
		command = state.Create
	}
	if !request.DryRun && command != nil {
		if err := state.run(ctx, *command); err != nil {
			return infer.UpdateResponse[CommandOutputs]{}, err
		}
	}
	return infer.UpdateResponse[CommandOutputs]{Output: state}, nil
}

// Delete runs `delete`. Without one the machine is not even dialled, so a
// resource on a machine that is gone can be deleted.
func (*Command) Delete(
	ctx context.Context, request infer.DeleteRequest[CommandOutputs],
) (infer.DeleteResponse, error) {
	if request.State.Delete == nil {
		return infer.DeleteResponse{}, nil
	}
	return infer.DeleteResponse{}, request.State.run(ctx, *request.State.Delete)
}
