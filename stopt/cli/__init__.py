"""Click commands: parse, call one library function, print. Heavy packages are imported by what they call."""
