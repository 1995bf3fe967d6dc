-- A repository that begins imports at certain hours only has none to give outside them.
ALTER TABLE repositories DROP CONSTRAINT repositories_imports_check, ADD CONSTRAINT repositories_imports_check CHECK (imports >= 0);
