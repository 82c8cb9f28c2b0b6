-- The tables of every journey, on both sides.
CREATE TABLE typed (
    id int PRIMARY KEY, small int2, big int8, num numeric, word text, at timestamptz, uid uuid, doc json, docb jsonb,
    list int[], words text[], raw bytea, flag bool
);
CREATE TABLE item (id serial PRIMARY KEY, name text NOT NULL, qty int NOT NULL);
CREATE TABLE account (id int PRIMARY KEY, balance numeric NOT NULL CHECK (balance >= 0));
CREATE TABLE bulk (id int PRIMARY KEY, word text);
INSERT INTO account VALUES (1, 100), (2, 100);
