// Package controller makes images of NixImage objects: it keeps a Job for each
// system that has to be built, and writes what came of them in the object's
// status.
//
// One reconciliation is a row of small steps. Reading gives an object, its Jobs,
// their pods and, where those say nothing, events. NewPlan and Plan.Status are
// pure functions of that and of the time: which Jobs to make, to give up and to
// delete, and what the status shall be. Between them the Jobs are acted on; the
// end is one patch of the status, when it differs.
//
// The Jobs and the status are the whole state. A Job's name follows from what it
// builds, and each step can be repeated, so that a controller may be killed
// anywhere: the next one goes on, and never makes a second Job for one thing. Of
// several controllers one leads, by a Lease; the others wait.
//
// It has no store, mounts nothing, and calls no agent. Finished Jobs are deleted
// as soon as their result is in the status; deleting an object deletes its Jobs by
// their owner references, so that no finaliser can keep it.
package controller
