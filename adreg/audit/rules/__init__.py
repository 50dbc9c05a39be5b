"""The rules by letter, a module each. Ids are stable: a rule that is dropped never gives its id to another."""
