package v1alpha1

// The types of conditions. All three are always there once the controller has
// seen the object, and each says for which generation it speaks.
const (
	// ConditionReady is True when status.digest is what the present spec asks for,
	// False while it is not. An earlier version may be served all the same.
	ConditionReady = "Ready"
	// ConditionBuilding is True while a Job is under way, or waits for something.
	ConditionBuilding = "Building"
	// ConditionStalled is True when something has to change before the object can
	// get ready: the spec, the policy, a quota, the nodes. Tries go on, slowly.
	ConditionStalled = "Stalled"
)

// Reasons of Ready.
const (
	// ReasonAvailable: True; every system is served.
	ReasonAvailable = "Available"
	// ReasonPartlyAvailable: True; some systems are served, and the message says
	// why the others are not.
	ReasonPartlyAvailable = "PartlyAvailable"
	// ReasonBuilding: False; the first version, or the next one, is being built.
	ReasonBuilding = "Building"
	// ReasonNotAvailable: False; see Stalled.
	ReasonNotAvailable = "NotAvailable"
)

// Reasons of Building.
const (
	// ReasonScheduling: True; the build pod is not on a node yet.
	ReasonScheduling = "Scheduling"
	// ReasonRealising: True; the node fetches or builds the closure.
	ReasonRealising = "Realising"
	// ReasonWaiting: True; something is away or full for now, and is tried again.
	ReasonWaiting = "Waiting"
	// ReasonRetrying: False; the last attempt failed, and the next one has its time.
	ReasonRetrying = "Retrying"
	// ReasonFinished: False; there is nothing to build.
	ReasonFinished = "Finished"
)

// Reasons of Stalled. The first ones are those of the errors of a node's agent.
const (
	// ReasonInvalidSource: the agent does not understand the source.
	ReasonInvalidSource = "InvalidSource"
	// ReasonPolicyRefused: the operator's policy refuses the source to this namespace.
	ReasonPolicyRefused = "PolicyRefused"
	// ReasonSourceNotFound: no cache has the path.
	ReasonSourceNotFound = "SourceNotFound"
	// ReasonBuildFailed: the evaluation or a builder failed, or a signature is missing.
	ReasonBuildFailed = "BuildFailed"
	// ReasonCorrupt: content does not match its hash.
	ReasonCorrupt = "Corrupt"
	// ReasonNoNode: no node can take the build pod.
	ReasonNoNode = "NoNode"
	// ReasonQuotaExceeded: a quota of the namespace is used up.
	ReasonQuotaExceeded = "QuotaExceeded"
	// ReasonPodRefused: the API server refuses the Job or its pod for another reason.
	ReasonPodRefused = "PodRefused"
	// ReasonImagePull: the image of the build pod cannot be pulled.
	ReasonImagePull = "BuildImagePull"
	// ReasonDeadlineExceeded: an attempt took longer than the deadline.
	ReasonDeadlineExceeded = "DeadlineExceeded"
	// ReasonReportFailed: the closure is there, but the report on it failed.
	ReasonReportFailed = "ReportFailed"
	// ReasonProgressing: False; nothing stands in the way.
	ReasonProgressing = "Progressing"
)
